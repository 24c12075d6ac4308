"""Random maps: stochastic rounding, and Theorem 3.2's choice between two maps.

Dockhorn et al., NeurIPS 2021, Theorem 3.2: a convex combination of proximal maps is one again, so drawing one of several
maps at random is, in expectation, ProxConnect with their average.
"""

import math

import torch
from torch import Generator, Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.quantizers.piecewise_linear import projector


def stochastic(unit: Tensor, levels: LevelSet, sharpness: float, generator: Generator) -> Tensor:
    """Round each latent to one of its two neighboring levels, the nearer the likelier; its mean is the latent.

    On {-1, 1}: +1 with probability (w + 1) / 2 within [-1, 1], BinaryConnect's stochastic form (Courbariaux et al., NeurIPS
    2015, eq. 2-3).

    Args:
        unit: float tensor of any shape, latents in units of the level set.
        levels: the level set.
        sharpness: inf for the projector; otherwise without effect.
        generator: source of randomness on the CPU, so that all devices and processes draw the same.

    Returns:
        A new tensor of levels.
    """
    if math.isinf(sharpness):
        return projector(unit, levels)
    draw = torch.rand(unit.shape, generator=generator, dtype=torch.float32).to(unit.device, unit.dtype)
    result = torch.full_like(unit, levels.values[0])
    for q, up, g in zip(levels.values[:-1], levels.values[1:], levels.gaps, strict=True):
        result = torch.where((unit - q) / g > draw, up, result)
    return result


def averaged(unit: Tensor, levels: LevelSet, share: float) -> Tensor:
    """(1 - share) identity + share projector within [q_1, q_b]: the mean of `chosen`; share = inf is the projector."""
    hard = projector(unit, levels)
    return hard if share >= 1 else unit.clamp(levels.values[0], levels.values[-1]).lerp(hard, share)


def chosen(unit: Tensor, levels: LevelSet, share: float, generator: Generator) -> Tensor:
    """Each latent is projected with probability `share` and left alone (within [q_1, q_b]) otherwise.

    Arguments as of `stochastic`; share = inf is the projector.
    """
    hard = projector(unit, levels)
    if share >= 1:
        return hard
    draw = torch.rand(unit.shape, generator=generator, dtype=torch.float32).to(unit.device)
    return torch.where(draw < share, hard, unit.clamp(levels.values[0], levels.values[-1]))
