"""Smooth forward maps, and the backward maps of ProxConnect++.

The forward maps are sums of one smooth step for each interval, so they take any level set; on {-1, 1} they are the
published ones:

    tanh         q_1 + sum_k h_k (1 + tanh(beta (w - p_k) / h_k))         on {-1, 1}: tanh(beta w)
    sign-Swish   q_1 + sum_k h_k (1 + S(beta (w - p_k) / h_k))            S(z) = 2 sigma(z) (1 + z (1 - sigma(z))) - 1

tanh is the mirror map of mirror descent (Ajanthan et al., AISTATS 2021); sign-Swish is BNN+'s (Darabi et al., 2019) and the
forward map of BNN++ (Lu et al., NeurIPS 2023), whose backward map is its derivative. A backward map is a non-negative factor
of the gradient: ProxConnect++ steps along B(w*) * gradient(F(w*)).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.quantizers.piecewise_linear import projector


def tanh(unit: Tensor, levels: LevelSet, beta: float) -> Tensor:
    """A tanh step for each interval; latents are not clipped, the result lies strictly within (q_1, q_b).

    Args:
        unit: float tensor of any shape, latents in units of the level set.
        levels: the level set.
        beta: steepness of each step, in half gaps; inf for the projector.

    Returns:
        A new tensor of the same shape and dtype.
    """
    return _steps(unit, levels, beta, torch.tanh)


def sign_swish(unit: Tensor, levels: LevelSet, beta: float) -> Tensor:
    """A sign-Swish step for each interval; it overshoots a level by up to 10 % of half the gap. Arguments as of `tanh`."""
    return _steps(unit, levels, beta, _swish)


def clip_backward(unit: Tensor, levels: LevelSet, sharpness: float) -> Tensor:
    """1 within [q_1, q_b], 0 outside: BNN's clipped straight-through estimator (Hubara et al., NeurIPS 2016)."""
    return ((unit >= levels.values[0]) & (unit <= levels.values[-1])).to(unit.dtype)


def sign_swish_backward(unit: Tensor, levels: LevelSet, beta: float) -> Tensor:
    """Derivative of `sign_swish` for the gradient, as a multiple of its peak; 1 everywhere at beta = inf.

    The peak is divided out so that the step length does not grow with beta; the hard stage goes on as BinaryConnect.
    """
    if math.isinf(beta):
        return torch.ones_like(unit)
    result = torch.zeros_like(unit)
    for p, g in zip(levels.midpoints, levels.gaps, strict=True):
        z = (beta * (unit - p) / (g / 2)).clamp_(-40, 40)
        result = torch.maximum(result, (2 - z * torch.tanh(z / 2)) / (1 + torch.cosh(z)))
    return result.clamp_(min=0)


def _swish(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return 2 * s * (1 + z * (1 - s)) - 1


def _steps(unit: Tensor, levels: LevelSet, beta: float, step: Callable[[Tensor], Tensor]) -> Tensor:
    if math.isinf(beta):
        return projector(unit, levels)
    result = torch.full_like(unit, levels.values[0])
    for p, g in zip(levels.midpoints, levels.gaps, strict=True):
        result += g / 2 * (1 + step((beta * 2 / g) * (unit - p)))
    return result
