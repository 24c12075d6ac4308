"""The factor of a level set, estimated from latent weights, and the threshold of ternary weight networks."""

from typing import Literal

import torch
from torch import Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.quantizers.piecewise_linear import projector

ScaleFit = Literal["fixed", "least-squares", "learned", "twn", "ttq"]
"""How the factor of a level set moves while training, see `bitplane.train.latents.Target`."""


def nearest_scale(weight: Tensor, levels: LevelSet, per_channel: bool, rounds: int = 6) -> Tensor:
    """Estimate the factor of the level set that fits `weight` best in least squares.

    Alternates projection and regression (Lloyd's algorithm on one free factor), starting at the Gaussian's
    Lloyd-Max factor `levels.unit_scale` times the root mean square. For {-1, 1} it is mean|w|, XNOR-Net's scale (Rastegari et
    al., ECCV 2016, eq. 6).

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


def ternary_threshold(weight: Tensor, per_channel: bool, rule: Literal["twn", "ttq"]) -> Tensor:
    """The threshold below which a ternary weight is 0.

    Args:
        weight: [O, ...] float tensor.
        per_channel: one for each output channel instead of one for the layer.
        rule: "twn", 0.7 mean|w| (Li and Liu, 2016, eq. 6), or "ttq", 0.05 max|w| (Zhu et al., ICLR 2017, eq. 9).

    Returns:
        Tensor [O, 1, ...] (or [1, 1, ...]), positive, float32.
    """
    dims = tuple(range(1 if per_channel else 0, weight.dim()))
    w = weight.detach().float().abs()
    found = 0.7 * w.mean(dims, keepdim=True) if rule == "twn" else 0.05 * w.amax(dims, keepdim=True)
    return found.clamp_(min=1e-8)


def mean_above(weight: Tensor, threshold: Tensor, side: int = 0) -> Tensor:
    """Mean of |w| over weights with |w| >= threshold: the least-squares factor of {-1, 0, 1} for that threshold.

    Args:
        weight: [O, ...] float tensor.
        threshold: of `ternary_threshold`; its shape decides over what is averaged.
        side: only positive (1) or negative (-1) weights instead of both.

    Returns:
        Tensor of the shape of `threshold`; the threshold itself where no weight reaches it.
    """
    w = weight.detach().float()
    dims = tuple(range(1 if threshold.shape[0] > 1 else 0, weight.dim()))
    kept = (w.abs() >= threshold) & ((w * side > 0) if side else torch.ones_like(w, dtype=torch.bool))
    count = kept.sum(dims, keepdim=True)
    mean = (w.abs() * kept).sum(dims, keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, mean, threshold)
