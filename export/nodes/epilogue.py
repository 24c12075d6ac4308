"""A convolution on codes as the packed form holds it: integer weights, and one scale and one bias a channel.

With integer weights w of unit l, codes u of step t, and 1-bit values c (2 u - 1):

    conv(t u, l w) + b            = (t l) conv(u, w) + b
    conv(c (2 u - 1), l w) + b    = (2 c l) conv(u, w) + (b - c l sum w)        1-bit inputs
    conv(p - z, l w) + b          = l conv(p - z, w) + b                        pixels

computed in float64 and rounded once to float32. Channels of negative scale take -w, so that the scale is positive.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.export.errors import ExportError
from bitplane.export.network import Float64, Node
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.sign import Sign
from bitplane.export.nodes.weight import Weight

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
DEAD_BIAS = 1e-30
"""Least magnitude of the bias of a dead channel whose weights cannot be zero: above any accumulator times `SMALLEST_NORMAL`."""


@dataclass(frozen=True)
class FoldedConv:
    """A convolution in integers with its epilogue.

    Attributes:
        weight: int8 [O, C, kh, kw].
        scale: float32 [O, 1, 1], positive and finite.
        bias: float32 [O, 1, 1], finite.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


def fold_codes(name: str, weight: Weight, bias: Float64, producer: Node | None) -> FoldedConv:
    """A convolution on the codes of `producer` (on pixels, where it is no quantizer) as integers with scale and bias.

    Raises:
        ExportError: a folded factor is not finite.
    """
    integers, unit = weight.integers, weight.unit
    assert integers is not None
    assert unit is not None
    if isinstance(producer, Sign):
        scale = 2 * producer.scale * unit
        bias = bias - producer.scale * unit * integers.sum((1, 2, 3), dtype=np.int64)
    else:
        scale = unit * (float(np.float32(producer.step)) if isinstance(producer, Quantize) else 1.0)
    return _positive(name, integers, scale, bias, has_zero=weight.has_zero)


def _positive(name: str, integers: NDArray[np.int8], scale: Float64, bias: Float64, *, has_zero: bool) -> FoldedConv:
    """Make every scale positive: negate weights of negative ones; a scale of zero takes zero weights where the set has them."""
    limit = float(np.finfo(np.float32).max)
    if not ((np.abs(scale) <= limit).all() and (np.abs(bias) <= limit).all()):
        raise ExportError(f"{name}: BatchNorm folds to a factor that is not finite in float32; the training has diverged")
    negative, zero = scale < 0, np.abs(scale) < SMALLEST_NORMAL
    weight = np.where(negative[:, None, None, None], -integers, integers)
    if has_zero:
        weight[zero] = 0
    else:
        # Otherwise the accumulator would decide the sign of a dead channel whose bias is zero.
        bias = np.where(zero & (np.abs(bias) < DEAD_BIAS), np.where(bias < 0, -DEAD_BIAS, DEAD_BIAS), bias)
    positive = np.where(zero, SMALLEST_NORMAL, np.abs(scale))
    return FoldedConv(
        weight.astype(np.int8),
        positive.astype(np.float32).reshape(-1, 1, 1),
        bias.astype(np.float32).reshape(-1, 1, 1),
    )
