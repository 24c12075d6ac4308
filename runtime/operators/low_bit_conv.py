"""`BinaryConv`, `TernaryConv`, `QuaternaryConv`, `FourLevelConv`: convolutions of codes with weights in bit-planes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.levels import LEVEL_SETS, LevelSet
from bitplane.format.limits import MAX_ELEMENTS
from bitplane.format.pack import unpack_weight
from bitplane.runtime.layouts import round_up
from bitplane.runtime.operators.base import Convolution, Tensor, windows
from bitplane.runtime.operators.reader import Reader


def largest_term(levels: LevelSet) -> int:
    """Most that one weight of a level set, taken apart into its planes, adds to a sum for one step of a code."""
    return abs(levels.base) + sum(abs(p.coefficient) for p in levels.planes)


MAX_TERM = max(map(largest_term, LEVEL_SETS.values()))
"""The same of any set that has an operator of its own."""


@dataclass(frozen=True, eq=False)
class LowBitConv(Convolution):
    """Float32(convolution of codes with integer weights) * scale + bias.

    Attributes:
        shape: (O, kh, kw, C) of the weight.
        scale: float32 [O], positive.
        bias: float32 [O].
        levels: level set of the weight.
        planes: uint8 [O, ceil(kh kw C / 8)] each, in the level set's order.
    """

    shape: tuple[int, int, int, int]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    levels: LevelSet
    planes: tuple[NDArray[np.uint8], ...]

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, kh, kw, C)."""
        return self.shape

    def integers(self) -> NDArray[np.int8]:
        """The weight as integers [O, kh, kw, C] of `levels.integers`."""
        return unpack_weight(self.levels, self.planes, self.shape)

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of codes [C, H, W]."""
        _, kh, kw, _ = self.shape
        taps = windows(values[0].astype(np.int64), (kh, kw), self.strides, self.pads, 0).astype(np.int64)
        sums = np.tensordot(self.integers().astype(np.int64), taps, ((1, 2, 3), (3, 4, 0)))
        return sums.astype(np.float32) * self.scale[:, None, None] + self.bias[:, None, None]


def read(r: Reader, node: onnx.NodeProto) -> LowBitConv:
    """The checked node."""
    count = len(fmt.PLANE_NAMES[node.op_type])
    source, *rest = r.inputs(node, 3 + count)
    codes = r.value(source, "codes")
    c, h, w = codes.shape
    levels, a = r.level_set(node, {"weight_shape": 4, "strides": 2, "pads": 4})
    o, kh, kw, channels = shape = a["weight_shape"]
    if min(shape) < 1 or channels != c or math.prod(shape) > MAX_ELEMENTS:
        raise r.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, {c}]")
    weights = kh * kw * c
    if weights * (2**codes.bits - 1) * max(MAX_TERM, largest_term(levels)) >= 1 << 31:
        raise r.fail(f"sums over {weights} weights overflow 32 bits")
    planes = r.planes(levels, rest[:count], shape)
    r.unpack_budget(round_up(o, 16) * kh * kw * round_up(c, 64 if c > 32 else 32) * count)
    (sy, sx), (top, left, bottom, right) = a["strides"], a["pads"]
    height, width = r.window((h, w), (kh, kw), a["strides"], a["pads"])
    scale, bias = r.scale_and_bias(rest[count:], o)
    r.add(node.output[0], Tensor("features", (o, height, width)), weights)
    return LowBitConv(
        node.name, source, node.output[0], (sy, sx), (top, left, bottom, right), (o, kh, kw, c), scale, bias, levels, planes
    )


OPERATORS = {(fmt.DOMAIN, op): read for op in fmt.CONV_OPERATORS}
