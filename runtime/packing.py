"""Weights and thresholds in the layout the tiles read.

A weight matrix has R rows (output channels padded to 16; a quaternary layer has 32 rows for 16 channels: both sign planes)
and one word a (kernel row, pixel, channel word). A tile reads [group][word][plane][vector][lane], a group's weights in one
stream.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.pack import unpack_plane, unpack_weight
from bitplane.runtime.kernels.shapes import LOOK_UPS, Tile
from bitplane.runtime.model import Conv, Quantizer

BLOCK = 16
"""Channels of an epilogue vector; features and weights are padded to multiples of it."""


BITS_SPAN = 31
"""Words whose bits a byte can count, 8 of each word."""

SURE_SPAN = 48
"""Words beyond which a longer span no longer pays."""

LEAST_SPAN = 4
"""Words from which on it pays to sum products in 16 bits first."""


def pad_channels(channels: int) -> int:
    """Channels of features in memory: the next multiple of 16."""
    return -(-channels // BLOCK) * BLOCK


def word_bits(channels: int, sums: int) -> int:
    """Bits of the words that hold `channels` code bits, where the largest sum over one layer is `sums`.

    16-bit lanes count sums as unsigned integers and keep one value free for "never".
    """
    if channels <= 16 and sums < 2**16 - 1:
        return 16
    return 32 if channels <= 32 else 64


def lane_words(conv: Conv, bits: int) -> list[NDArray[np.generic]]:
    """Weight words [R, kh, words] of each weight vector a tile loads, as unsigned integers of the lane size."""
    o, kh, kw, c = conv.weight_shape
    rows = pad_channels(o)
    if conv.pixel_weight is not None:
        taps = np.zeros((rows, kh, -(-kw * c // 4) * 4), np.int8)
        taps[:o, :, : kw * c] = conv.pixel_weight.transpose(0, 2, 3, 1).reshape(o, kh, kw * c)
        return [taps.view(np.uint32)]
    words = -(-c // bits)
    out: list[NDArray[np.generic]] = []
    for plane in conv.planes:
        wide = np.zeros((rows, kh, kw, words * bits), np.uint8)
        wide[:o, :, :, :c] = unpack_plane(plane, conv.weight_shape)
        packed = np.packbits(wide, axis=-1, bitorder="little").view(f"<u{bits // 8}")
        out.append(packed.reshape(rows, kh, kw * words))
    return [_pair_rows(out)] if conv.op == fmt.QUATERNARY_CONV else out


def byte_words(conv: Conv, pixel: int) -> list[NDArray[np.generic]]:
    """Weights of a low-bit convolution as int8 [R, kh, kw, `pixel` bytes], four to a word: for codes stored as bytes."""
    o, kh, kw, c = conv.weight_shape
    taps = np.zeros((pad_channels(o), kh, kw, pixel), np.int8)
    taps[:o, :, :, :c] = unpack_weight(fmt.LEVELS[conv.op], conv.planes, conv.weight_shape)
    return [taps.reshape(len(taps), kh, kw * pixel).view(np.uint32)]


def pairs_span(words: NDArray[np.generic], top: int) -> int:
    """Words that a tile may multiply before a 16-bit sum of pairs of products could overflow, whatever the codes are.

    The bound is that of the largest weight or, where that allows few words, that of the weights as they lie.

    Args:
        words: [R, kh, words], each of 4 int8.
        top: largest code.
    """
    weights = words.view(np.int8).reshape(*words.shape, 2, 2)
    largest, most = max(int(weights.max(initial=1)), -int(weights.min(initial=-1))), 2**15 - 1
    span = max(1, most // (2 * top * largest))
    if span >= SURE_SPAN:
        return span
    sides = [top * np.maximum(sign * weights.astype(np.int16), 0).sum(-1, dtype=np.int32) for sign in (1, -1)]
    return _longest_span(sides, most, span)


def _longest_span(sides: Sequence[NDArray[np.integer]], most: int, span: int, step: int = 1) -> int:
    """Words of the longest span up to `SURE_SPAN` over which no sum passes `most`; `span` if that is longer.

    A tile takes as many whole kernel rows of words as a span holds, or else equal parts of one row, multiples of `step`.

    Args:
        sides: what each word can add to a sum at the most, and take from it, [R, kh, words, sums].
        most: largest magnitude of a sum.
        span: words that are safe.
        step: see above.
    """
    kh, count = sides[0].shape[1:3]
    parts = (-(-count // n) for n in range(2, count + 1))
    runs = {*(rows * count for rows in range(1, kh + 1)), *(part + -part % step for part in parts)}
    totals = [np.cumsum(side, axis=2, dtype=np.int32) for side in sides]
    for run in sorted((r for r in runs if span < r <= SURE_SPAN), reverse=True):
        if all(_most_of_runs(total, run) <= most for total in totals):
            return run
    return span


def _most_of_runs(totals: NDArray[np.int32], span: int) -> int:
    """Largest sum of a run of `span` words, by the runs a tile takes, of running totals [R, kh, words, sums]."""
    kh, words = totals.shape[1:3]
    if span >= words:
        return int(np.add.reduceat(totals[:, :, -1], np.arange(0, kh, span // words), axis=1).max())
    ends = totals[:, :, [*range(span - 1, words - 1, span), words - 1]]
    return int(np.diff(ends, axis=2, prepend=0).max())


def four_words(conv: Conv, pixel: int) -> list[NDArray[np.generic]]:
    """Indices into tables of sums, uint8 [R, kh, kw * `pixel`], one for four channels: for codes stored in fours.

    Binary and quaternary weights: their four sign bits, the first lowest, of one or two planes (32 rows for 16 channels).
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
    if conv.op == fmt.TERNARY_CONV:
        signs, masks = indices
        return [masks & ~signs, masks & signs]
    return [_pair_rows(indices)] if conv.op == fmt.QUATERNARY_CONV else [*indices]


def _pair_rows(planes: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Words [R, kh, words] of two planes to [2 R, kh, words]: 16 rows of the first, then the same 16 of the second."""
    rows, kh, words = planes[0].shape
    pairs = np.stack([p.reshape(rows // BLOCK, BLOCK, kh, words) for p in planes], axis=1)
    return pairs.reshape(2 * rows, kh, words)


def center(op: str, bits: int) -> float:
    """What codes of 1 or 2 bits count from in a table: sums of four are whole, and small, so that a byte holds many."""
    return bits - 1 if op == fmt.TERNARY_CONV else (2**bits - 1) / 2


def four_bound(op: str, bits: int) -> int:
    """Largest magnitude of the sum of four products that a look-up of codes of `bits` bits adds."""
    top = 2**bits - 1
    return int(4 * max(top - center(op, bits), center(op, bits)))


def count_spans(rows: int, words: int, span: int) -> int:
    """Spans of a tile over kernel rows of `words` words: whole rows, as many as fit, or else parts of one."""
    whole = span // words
    return -(-rows // whole) if whole else rows * -(-words // span)


def four_span(op: str, bits: int, words: int) -> int:
    """Words that a look-up tile adds in bytes whatever the weights: whole kernel rows, or equal parts, even for loops of 2."""
    most = 127 // four_bound(op, bits) // 2 * 2
    if words <= most:
        return most
    part = -(-words // -(-words // most))
    return part + part % 2


def four_span_of(op: str, bits: int, indices: list[NDArray[np.generic]]) -> int:
    """The same for these weights, the indices of `four_words`: ternary ones that are 0 add nothing."""
    span = four_span(op, bits, indices[0].shape[2])
    if op != fmt.TERNARY_CONV:
        return span
    counts = [np.bitwise_count(i)[..., None] for i in indices]  # uint8, at most 4
    low = int(center(op, bits))
    high = 2**bits - 1 - low
    sides = [high * counts[0] + low * counts[1], low * counts[0] + high * counts[1]]
    return _longest_span(sides, 127, span, step=2)


def four_table(op: str, bits: int) -> NDArray[np.int8]:
    """Sums int8 [256, 16], for a byte of four codes and four weight bits (`four_words`); codes count from their `center`."""
    fields = np.arange(4)
    codes = (np.arange(256)[:, None] >> 2 * fields & 3) - center(op, bits)
    chosen = np.arange(16)[:, None] >> fields & 1
    return (codes @ (chosen if op == fmt.TERNARY_CONV else 1 - 2 * chosen).T).astype(np.int8)


def four_offsets(conv: Conv, pixel: int, bits: int) -> NDArray[np.int32]:
    """What to add to a look-up tile's sum, as `offsets` for the others, [O padded]."""
    o, kh, kw, _ = conv.weight_shape
    counts = [np.bitwise_count(p).sum(1, dtype=np.int64) for p in conv.planes]
    out = np.zeros(pad_channels(o), np.int64)
    if conv.op == fmt.TERNARY_CONV:
        out[:o] = center(conv.op, bits) * (counts[1] - 2 * counts[0])
    else:
        signs = [kh * kw * 4 * pixel - 2 * n for n in counts]  # even, as padding counts too: half of it is whole
        out[:o] = center(conv.op, bits) * (signs[0] if len(signs) == 1 else 13 * signs[0] + 7 * signs[1])
    return out.astype(np.int32)


def pack_weights(words: list[NDArray[np.generic]], tile: Tile) -> NDArray[np.generic]:
    """[R, kh, words] of each plane to one contiguous array [group, kh, words, plane, vector, lane]."""
    stack = np.stack(words)
    planes, rows, kh, count = stack.shape
    split = stack.reshape(planes, rows // tile.group, tile.vectors, -1, kh, count).transpose(1, 4, 5, 0, 2, 3)
    return np.ascontiguousarray(np.repeat(split, tile.shared, -1))


def offsets(conv: Conv, top: int) -> NDArray[np.int32]:
    """What to add to a tile's sum to get the accumulator, [O padded]; twice the accumulator's tenths for quaternary weights.

    Args:
        conv: the convolution.
        top: largest activation code, 2^A - 1.
    """
    o = conv.weight_shape[0]
    out = np.zeros(pad_channels(o), np.int64)
    if conv.pixel_weight is not None:
        out[:o] = -conv.zero_point * conv.pixel_weight.astype(np.int64).sum((1, 2, 3))
    else:
        counts = [np.bitwise_count(p).sum(1, dtype=np.int64) for p in conv.planes]
        if conv.op == fmt.QUATERNARY_CONV:
            out[:o] = -top * (13 * counts[0] + 7 * counts[1])
        else:
            out[:o] = -top * counts[0]
    return out.astype(np.int32)


def float_levels(quantizer: Quantizer) -> list[np.float32 | NDArray[np.float32]]:
    """The smallest float32 that each code 1 .. 2^A - 1 needs (A <= 2), of all channels or [C].

    By bisection over the bits of a positive float32.
    """
    if quantizer.step is None:
        return [np.float32(0) if quantizer.thresholds is None else quantizer.thresholds]
    step = np.float32(quantizer.step)
    levels: list[np.float32 | NDArray[np.float32]] = []
    for code in range(1, 2**quantizer.bits):
        low, high = 0, int(np.float32(np.inf).view(np.int32))
        while high - low > 1:
            middle = (low + high) // 2
            with np.errstate(over="ignore"):
                reached = np.rint(np.int32(middle).view(np.float32) / step) >= code
            low, high = (low, middle) if reached else (middle, high)
        levels.append(np.int32(high).view(np.float32))
    return levels


def integer_levels(conv: Conv, top: int, relu: bool, quantizer: Quantizer) -> NDArray[np.int64]:
    """Smallest tile sum [code - 1, O] whose feature reaches each code, by bisection over the float32 epilogue itself.

    The epilogue is monotone because `scale` is positive. A sum that no input reaches stands for "never".

    Args:
        conv: a binary or ternary convolution.
        top: largest code it reads.
        relu: whether features are rectified before quantizing.
        quantizer: a quantizer of 1 or 2 bits.
    """
    o, *window = conv.weight_shape
    largest = math.prod(window) * top
    offset = offsets(conv, top)[:o].astype(np.int64)

    def feature(total: NDArray[np.int64]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            value = (total + offset).astype(np.float32) * conv.scale + conv.bias
        return np.maximum(value, np.float32(0)) if relu else value

    return np.stack([_bisect(feature, level, largest, o) for level in float_levels(quantizer)])


def _bisect(
    feature: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    level: np.float32 | NDArray[np.float32],
    largest: int,
    channels: int,
) -> NDArray[np.int64]:
    low, high = np.full(channels, -1, np.int64), np.full(channels, largest + 1, np.int64)
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = feature(middle) >= level
        open_ = high - low > 1
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle, low)
    return high


def pack_levels(levels: NDArray[np.int64], rows: int, tile: Tile) -> NDArray[np.generic]:
    """[level, O] to [group, level, vector, lane] of the lane type; padding channels are never reached.

    Sums of look-ups are signed, and have three levels: those that are missing are never reached either. A tile of two
    neighboring pixels takes the levels of its channels twice, one pixel after the other.
    """
    signed = tile.kind in LOOK_UPS
    wide = np.full((3 if signed else len(levels), rows), 2 ** (tile.bits - signed) - 1, np.int64 if signed else np.uint64)
    wide[: len(levels), : levels.shape[1]] = levels
    split = wide.reshape(len(wide), rows // tile.group, tile.group).transpose(1, 0, 2)
    split = np.concatenate([split] * tile.shared, -1)
    return np.ascontiguousarray(split).astype(f"<{'i' if signed else 'u'}{tile.bits // 8}")
