"""Weights in the layout the tiles read.

A weight matrix has R rows (output channels padded to 16; a layer of four levels has 32 rows for 16 channels: both sign planes)
and one word a (kernel row, pixel, channel word). A tile reads [group][word][plane][vector][lane], a group's weights in one
stream.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitplane.format.levels import LevelSet
from bitplane.format.pack import unpack_plane
from bitplane.runtime.kernels.shapes import Tile
from bitplane.runtime.layouts import BLOCK, pad_channels
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.operators.pixel_conv import PixelConv
from bitplane.runtime.plan.spans import center, has_mask


def word_bits(channels: int, sums: int) -> int:
    """Bits of the words that hold `channels` code bits, where the largest sum over one layer is `sums`.

    16-bit lanes count sums as unsigned integers and keep one value free for "never".
    """
    if channels <= 16 and sums < 2**16 - 1:
        return 16
    return 32 if channels <= 32 else 64


def pixel_words(conv: PixelConv) -> list[NDArray[np.generic]]:
    """Weights of a pixel convolution, four int8 to a word of 32 bits, [R, kh, words]."""
    o, kh, kw, c = conv.weight_shape
    taps = np.zeros((pad_channels(o), kh, -(-kw * c // 4) * 4), np.int8)
    taps[:o, :, : kw * c] = conv.weight.transpose(0, 2, 3, 1).reshape(o, kh, kw * c)
    return [taps.view(np.uint32)]


def lane_words(conv: LowBitConv, bits: int) -> list[NDArray[np.generic]]:
    """Weight words [R, kh, words] of each weight vector a tile loads, as unsigned integers of the lane size."""
    o, kh, kw, c = conv.weight_shape
    rows, words = pad_channels(o), -(-c // bits)
    out: list[NDArray[np.generic]] = []
    for plane in conv.planes:
        wide = np.zeros((rows, kh, kw, words * bits), np.uint8)
        wide[:o, :, :, :c] = unpack_plane(plane, conv.weight_shape)
        packed = np.packbits(wide, axis=-1, bitorder="little").view(f"<u{bits // 8}")
        out.append(packed.reshape(rows, kh, kw * words))
    return [_pair_rows(out)] if is_pairs(conv.levels) else out


def is_pairs(levels: LevelSet) -> bool:
    """Whether a channel has two sums, one of each sign plane."""
    return len(levels.planes) == 2 and not has_mask(levels)


def byte_words(conv: LowBitConv, pixel: int) -> list[NDArray[np.generic]]:
    """Weights of a low-bit convolution as int8 [R, kh, kw, `pixel` bytes], four to a word: for codes stored as bytes."""
    o, kh, kw, c = conv.weight_shape
    taps = np.zeros((pad_channels(o), kh, kw, pixel), np.int8)
    taps[:o, :, :, :c] = conv.integers()
    return [taps.reshape(len(taps), kh, kw * pixel).view(np.uint32)]


def four_words(conv: LowBitConv, pixel: int) -> list[NDArray[np.generic]]:
    """Indices into tables of sums, uint8 [R, kh, kw * `pixel`], one for four channels: for codes stored in fours.

    Weights of two or four levels: their four sign bits, the first lowest, of one or two planes (32 rows for 16 channels).
    Ternary ones: the bits of the positive channels, and those of the negative ones.
    """
    o, kh, kw, c = conv.weight_shape
    rows = pad_channels(o)
    indices: list[NDArray[np.uint8]] = []
    for plane in conv.planes:
        wide = np.zeros((rows, kh, kw, 4 * pixel), np.uint8)
        wide[:o, ..., :c] = unpack_plane(plane, conv.weight_shape)
        eights = np.packbits(wide, axis=-1, bitorder="little")
        fours = np.stack([eights & np.uint8(15), eights >> np.uint8(4)], -1)
        indices.append(fours.reshape(rows, kh, kw * pixel).astype(np.uint8))
    if has_mask(conv.levels):
        signs, masks = indices
        return [masks & ~signs, masks & signs]
    return [_pair_rows(indices)] if is_pairs(conv.levels) else [*indices]


def _pair_rows(planes: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Words [R, kh, words] of two planes to [2 R, kh, words]: 16 rows of the first, then the same 16 of the second."""
    rows, kh, words = planes[0].shape
    pairs = np.stack([p.reshape(rows // BLOCK, BLOCK, kh, words) for p in planes], axis=1)
    return pairs.reshape(2 * rows, kh, words)


def four_table(levels: LevelSet, bits: int) -> NDArray[np.int8]:
    """Sums int8 [256, 16], for a byte of four codes and four weight bits (`four_words`); codes count from their `center`."""
    fields = np.arange(4)
    codes = (np.arange(256)[:, None] >> 2 * fields & 3) - center(levels, bits)
    chosen = np.arange(16)[:, None] >> fields & 1
    return (codes @ (chosen if has_mask(levels) else 1 - 2 * chosen).T).astype(np.int8)


def four_offsets(conv: LowBitConv, pixel: int, bits: int) -> NDArray[np.int32]:
    """What to add to a look-up tile's sum, as `offsets` for the others, [O padded]."""
    o, kh, kw, _ = conv.weight_shape
    counts = [np.bitwise_count(p).sum(1, dtype=np.int64) for p in conv.planes]
    out, middle = np.zeros(pad_channels(o), np.int64), center(conv.levels, bits)
    if has_mask(conv.levels):
        out[:o] = middle * sum(p.coefficient * n for p, n in zip(conv.levels.planes, counts, strict=True))
        return out.astype(np.int32)
    signs = [kh * kw * 4 * pixel - 2 * n for n in counts]  # even, as padding counts too: half of it is whole
    out[:o] = middle * (_twice(conv.levels, signs) if is_pairs(conv.levels) else signs[0])
    return out.astype(np.int32)


def _twice(levels: LevelSet, sums: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Twice the accumulator of a level set of two sign planes, of the sums over each plane."""
    return np.sum([a * s for a, s in zip(levels.sign_coefficients, sums, strict=True)], axis=0)


def pack_weights(words: list[NDArray[np.generic]], tile: Tile) -> NDArray[np.generic]:
    """[R, kh, words] of each plane to one contiguous array [group, kh, words, plane, vector, lane]."""
    stack = np.stack(words)
    planes, rows, kh, count = stack.shape
    split = stack.reshape(planes, rows // tile.group, tile.vectors, -1, kh, count).transpose(1, 4, 5, 0, 2, 3)
    return np.ascontiguousarray(np.repeat(split, tile.shared, -1))


def offsets(conv: LowBitConv, top: int) -> NDArray[np.int32]:
    """What to add to a tile's sum to get the accumulator, [O padded]; twice the accumulator for pairs of sign planes.

    Args:
        conv: the convolution.
        top: largest activation code, 2^A - 1.
    """
    o = conv.weight_shape[0]
    out = np.zeros(pad_channels(o), np.int64)
    counts = [np.bitwise_count(p).sum(1, dtype=np.int64) for p in conv.planes]
    out[:o] = -top * (_twice(conv.levels, counts) if is_pairs(conv.levels) else counts[0])
    return out.astype(np.int32)


def pixel_offsets(conv: PixelConv) -> NDArray[np.int32]:
    """What to add to a tile's sum of products of pixels to get the accumulator, [O padded]."""
    out = np.zeros(pad_channels(len(conv.weight)), np.int64)
    out[: len(conv.weight)] = -conv.zero_point * conv.weight.astype(np.int64).sum((1, 2, 3))
    return out.astype(np.int32)
