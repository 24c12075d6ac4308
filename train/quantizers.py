"""Quantizers: maps from latent weights w* to (nearly) quantized weights w.

The piecewise linear map L_rho^varrho of ProxConnect (Dockhorn et al., NeurIPS 2021, eq. 13 as corrected by its
Theorem 3.1) in closed form. With p the midpoint nearest to w, h half the gap around p and v = min(varrho, h):

    L(w) = p + sgn+(w - p) min(h, v + |w - p| (h - v) / (h - rho))     if rho < h and varrho < h
    L(w) = p + sgn+(w - p) h                                           otherwise (the projector)

and w clipped to [q_1, q_b] first. sgn+(0) = +1. rho = varrho = 0 is the identity on [q_1, q_b];
rho = varrho = r on {-1, 1} is sign(w) min(1, |w| + r), ProxQuant's map; varrho = 0 is PARQ's map of slope h / (h - rho).
The gradient passes unchanged: no derivative of L is ever taken.
"""

import math

import torch
from torch import Tensor

from bitplane.train.levels import LevelSet


def piecewise_linear(latent: Tensor, levels: LevelSet, rho: float, varrho: float, scale: Tensor | float = 1.0) -> Tensor:
    """Apply scale * L(latent / scale).

    Args:
        latent: float tensor of any shape; not modified.
        levels: the level set Q.
        rho: half width of the flat pieces around each level, in units of the level set; inf for the projector.
        varrho: half height of the jump at each midpoint, in the same unit.
        scale: positive factor of the level set, broadcastable to `latent` ([O, 1, 1, 1] for one a channel).

    Returns:
        A new tensor of the shape and dtype of `latent`.

    Raises:
        ValueError: rho or varrho is negative or NaN.
    """
    if not (rho >= 0 and varrho >= 0):
        raise ValueError(f"`rho` (={rho}) and `varrho` (={varrho}) must be non-negative")
    values, midpoints = levels.values, levels.midpoints
    unit = (latent / scale).clamp(values[0], values[-1])
    result = torch.empty_like(unit)
    for k, p in enumerate(midpoints):
        h = (values[k + 1] - values[k]) / 2
        d = unit - p
        if rho < h and varrho < h:
            size = (varrho + d.abs() * ((h - varrho) / (h - rho))).clamp_(max=h)
            piece = torch.where(d >= 0, p + size, p - size)
        else:
            piece = torch.where(d >= 0, torch.full_like(unit, values[k + 1]), torch.full_like(unit, values[k]))
        # Interval k is (q_k, q_k+1): later intervals overwrite everything right of their lower level.
        result = piece if k == 0 else torch.where(unit >= values[k], piece, result)
    return result * scale


def projector(latent: Tensor, levels: LevelSet, scale: Tensor | float = 1.0) -> Tensor:
    """Project onto the nearest level of scale * Q (ties upwards): the limit rho = varrho = inf of L."""
    return piecewise_linear(latent, levels, math.inf, math.inf, scale)


def nearest_scale(weight: Tensor, levels: LevelSet, per_channel: bool, rounds: int = 6) -> Tensor:
    """Estimate the factor of the level set that fits `weight` best in least squares.

    Alternates projection and regression (Lloyd's algorithm on one free factor), starting at the Gaussian's
    Lloyd-Max factor `levels.unit_scale` times the root mean square.

    Args:
        weight: [O, ...] float tensor.
        levels: the level set.
        per_channel: one factor for each of the O output channels instead of one for the layer.
        rounds: iterations; the error never grows with more.

    Returns:
        Tensor [O, 1, ...] (or [1, 1, ...]), positive, float32.
    """
    dims = tuple(range(1 if per_channel else 0, weight.dim()))
    w = weight.detach().float()
    scale = (w.square().mean(dims, keepdim=True).sqrt() * levels.unit_scale).clamp_(min=1e-8)
    for _ in range(rounds):
        q = projector(w / scale, levels)
        fitted = (w * q).sum(dims, keepdim=True) / q.square().sum(dims, keepdim=True).clamp_(min=1e-12)
        scale = torch.where(fitted > 1e-8, fitted, scale)
    return scale
