"""Folding: a convolution, its level scale, its input's step and its BatchNorm become integers and one scale and bias a channel.

With s = gamma / sqrt(var + eps) of BatchNorm, integer levels w over denominator d, level scale l and codes u of step t:

    BN(conv(t u, l w / d))        = (s t l / d) conv(u, w) + (beta - mean s)
    BN(conv(2 u - 1, l w / d))    = (2 s l / d) conv(u, w) + (beta - mean s - (s l / d) sum w)            1-bit inputs
    BN(conv((p - z) / c, r q))    = (s r / c) conv(p - z, q) + (beta - mean s)                            stem, q int8

computed in float64 and rounded once to float32. Channels of negative s take -w, so that the scale is positive.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.runtime.format import PIXEL_WEIGHT_LIMIT
from bitplane.train.activations import LearnedStep, Sign
from bitplane.train.layers import LowBitConv2d, PixelInput

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
DEAD_BIAS = 1e-30
"""Least magnitude of the bias of a dead channel whose weights cannot be zero: above any accumulator times `SMALLEST_NORMAL`."""
LEVEL_TOLERANCE = 1e-3
"""Largest distance of a weight from its level, in units of the level set's integers."""

Float64 = NDArray[np.float64]


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


def to_float64(tensor: Tensor) -> Float64:
    """A tensor's values as a float64 array of the same shape."""
    return tensor.detach().cpu().double().numpy()


def batch_norm_affine(bn: nn.BatchNorm2d) -> tuple[Float64, Float64]:
    """The factor and offset, float64 [O] each, of BatchNorm in eval mode: BN(y) = factor y + offset."""
    assert bn.running_var is not None
    assert bn.running_mean is not None
    factor = to_float64(bn.weight) / np.sqrt(to_float64(bn.running_var) + bn.eps)
    return factor, to_float64(bn.bias) - to_float64(bn.running_mean) * factor


def level_integers(name: str, conv: LowBitConv2d) -> NDArray[np.int8]:
    """The integer levels of a low-bit convolution, int8 [O, C, kh, kw].

    Raises:
        ExportError: a level scale is not positive, or a weight lies farther than `LEVEL_TOLERANCE` from every level.
    """
    level_scale = to_float64(conv.level_scale)
    if not (np.isfinite(level_scale).all() and (level_scale > 0).all()):
        raise ExportError(f"{name}: a level scale is not positive and finite; train again with a smaller learning rate")
    units = to_float64(conv.weight) / level_scale * conv.levels.denominator
    levels = np.asarray(conv.levels.integers)
    distance = np.abs(units[..., None] - levels).min(-1)
    if not (distance <= LEVEL_TOLERANCE).all():
        count = int((~(distance <= LEVEL_TOLERANCE)).sum())
        raise ExportError(
            f"{name}: {count} of {units.size} weights of this layer are not in the {conv.levels.name} level set:"
            " finish or resume the run"
        )
    return np.rint(units).astype(np.int8)


def fold_low_bit(name: str, conv: LowBitConv2d, bn: nn.BatchNorm2d, quantizer: LearnedStep | Sign) -> FoldedConv:
    """Fold a low-bit convolution, its BatchNorm and the quantizer that feeds it.

    Args:
        name: the layer's name, for messages.
        conv: weights in `conv.level_scale` times the level set.
        bn: the BatchNorm that follows, taken in eval mode.
        quantizer: the activation quantizer whose codes the convolution reads.

    Raises:
        ExportError: weights are off the level set, or a folded factor is not finite.
    """
    integers = level_integers(name, conv)
    factor, offset = batch_norm_affine(bn)
    unit = factor * np.broadcast_to(to_float64(conv.level_scale).reshape(-1), factor.shape) / conv.levels.denominator
    if isinstance(quantizer, Sign):
        offset = offset - unit * integers.sum((1, 2, 3), dtype=np.int64)
        scale = 2 * unit
    else:
        scale = unit * to_float64(quantizer.step.abs().clamp(min=1e-8)).item()
    return _positive(name, integers, scale, offset, has_zero=0 in conv.levels.integers)


def fold_pixel(name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, pixels: PixelInput) -> FoldedConv:
    """Fold the stem: weights to int8 one scale an output channel, BatchNorm and the pixel scale into the epilogue.

    Raises:
        ExportError: a folded factor is not finite.
    """
    integers, step = quantize_pixel_weight(to_float64(conv.weight))
    factor, offset = batch_norm_affine(bn)
    return _positive(name, integers, factor * step / float(pixels.scale), offset, has_zero=True)


def quantize_pixel_weight(weight: Float64) -> tuple[NDArray[np.int8], Float64]:
    """Quantize stem weights symmetrically, one step an output channel, by least squared error.

    Every clipping value of a grid is refined once by regression; the best of all is kept.

    Args:
        weight: float64 [O, C, kh, kw].

    Returns:
        Integers int8 [O, C, kh, kw] in [-64, 64] and steps float64 [O], positive.
    """
    flat = weight.reshape(len(weight), -1)
    largest = np.abs(flat).max(1, keepdims=True)
    largest = np.where(largest > 0, largest, 1.0)
    best_step, best_error = largest / PIXEL_WEIGHT_LIMIT, np.full_like(largest, np.inf)
    for ratio in np.linspace(0.6, 1.0, 41):
        step = largest * (ratio / PIXEL_WEIGHT_LIMIT)
        q = _round_pixel(flat, step)
        square = (q * q).sum(1, keepdims=True)
        fitted: Float64 = np.where(square > 0, (q * flat).sum(1, keepdims=True) / np.maximum(square, 1), step)
        for candidate in (step, fitted):
            error = np.square(_round_pixel(flat, candidate) * candidate - flat).sum(1, keepdims=True)
            better = error < best_error
            best_step, best_error = np.where(better, candidate, best_step), np.where(better, error, best_error)
    return _round_pixel(flat, best_step).astype(np.int8).reshape(weight.shape), best_step[:, 0]


def _round_pixel(flat: Float64, step: Float64) -> Float64:
    return np.clip(np.rint(flat / step), -PIXEL_WEIGHT_LIMIT, PIXEL_WEIGHT_LIMIT)


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
