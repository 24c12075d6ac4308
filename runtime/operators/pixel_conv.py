"""`PixelConv`: the convolution of uint8 pixels with int8 weights."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.limits import MAX_ELEMENTS, PIXEL_WEIGHT_LIMIT
from bitplane.runtime.layouts import round_up
from bitplane.runtime.operators.base import Convolution, Tensor, windows
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class PixelConv(Convolution):
    """Float32(convolution of (pixels - zero_point) with integer weights) * scale + bias.

    Attributes:
        weight: int8 [O, C, kh, kw].
        scale: float32 [O], positive.
        bias: float32 [O].
        zero_point: of the pixels, and the value of the padding.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    zero_point: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, kh, kw, C)."""
        o, c, kh, kw = self.weight.shape
        return o, kh, kw, c

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of pixels [C, H, W]."""
        kernel = self.weight.shape[2], self.weight.shape[3]
        taps = windows(values[0].astype(np.int64) - self.zero_point, kernel, self.strides, self.pads, 0).astype(np.int64)
        sums = np.tensordot(self.weight.astype(np.int64), taps, ((1, 2, 3), (0, 3, 4)))
        return sums.astype(np.float32) * self.scale[:, None, None] + self.bias[:, None, None]


def read(r: Reader, node: onnx.NodeProto) -> PixelConv:
    """The checked node."""
    source, weight_name, zero_name, *factors = r.inputs(node, 5)
    c, h, w = r.value(source, "pixels").shape
    dims = r.dims(weight_name)
    if len(dims) != 4 or min(dims) < 1 or dims[1] != c or math.prod(dims) > MAX_ELEMENTS:
        raise r.fail(f"weight '{weight_name}' has shape {dims}, expected [O, {c}, kh, kw]")
    weight = r.constant(weight_name, np.int8, dims)
    limit = PIXEL_WEIGHT_LIMIT
    if weight.min() < -limit or weight.max() > limit:
        raise r.fail(f"weight '{weight_name}' spans [{weight.min()}, {weight.max()}], expected [-{limit}, {limit}]")
    a = r.attributes(node, {"strides": 2, "pads": 4})
    o, _, kh, kw = dims
    if kh * kw * c * 255 * limit >= 1 << 31:
        raise r.fail(f"sums over {kh * kw * c} weights overflow 32 bits")
    r.unpack_budget(round_up(o, 16) * kh * round_up(kw * c, 4))
    (sy, sx), (top, left, bottom, right) = a["strides"], a["pads"]
    height, width = r.window((h, w), (kh, kw), a["strides"], a["pads"])
    scale, bias = r.scale_and_bias(factors, o)
    zero_point = int(r.constant(zero_name, np.uint8, ()))
    r.add(node.output[0], Tensor("features", (o, height, width)), kh * kw * c)
    return PixelConv(node.name, source, node.output[0], (sy, sx), (top, left, bottom, right), weight, scale, bias, zero_point)


OPERATORS = {(fmt.DOMAIN, fmt.PIXEL_CONV): read}
