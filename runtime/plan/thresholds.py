"""Thresholds of accumulators: where codes are made by comparing integers, without a float epilogue."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.kernels.shapes import LOOK_UPS, Tile
from bitplane.runtime.operators.base import Activation, Quantizer
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.plan.weights import offsets


def integer_levels(conv: LowBitConv, top: int, activation: Activation | None, quantizer: Quantizer) -> NDArray[np.int64]:
    """Smallest tile sum [code - 1, O] whose feature reaches each code, by bisection over the float32 epilogue itself.

    The epilogue is monotone because `scale` is positive. A sum that no input reaches stands for "never".

    Args:
        conv: a binary or ternary convolution.
        top: largest code it reads.
        activation: a monotone one, before quantizing.
        quantizer: a quantizer of 1 or 2 bits.
    """
    o, *window = conv.weight_shape
    largest = math.prod(window) * top
    offset = offsets(conv, top)[:o].astype(np.int64)

    def feature(total: NDArray[np.int64]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            value = (total + offset).astype(np.float32) * conv.scale + conv.bias
        return value if activation is None else activation.evaluate(value)

    return np.stack([_bisect(feature, level, largest, o) for level in quantizer.thresholds()])


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
