"""The piecewise linear map L_rho^varrho of ProxConnect and its special cases.

Dockhorn et al., NeurIPS 2021, eq. 13 as corrected by its Theorem 3.1, in closed form. With p_k the midpoint of interval k,
h_k half its gap, v_k = min(varrho_k, h_k) and slope_k = (h_k - v_k) / (h_k - rho_k):

    L(w) = q_1 + sum_k [ h_k + sgn+(w - p_k) min(h_k, v_k + |w - p_k| slope_k) ]

with slope_k = 0 and v_k = h_k where rho_k or varrho_k reaches h_k. Each term is 0 left of its interval and 2 h_k right of it,
so the sum needs no search and clips to [q_1, q_b]. sgn+(0) = +1.

    rho = varrho = r            ProxConnect; on {-1, 1} it is sign(w) min(1, |w| + r), ProxQuant's map of the L1 distance
    rho = varrho = 0            the identity on [q_1, q_b]
    rho = varrho = inf          the projector
    rho = 0, varrho = h mu / (1 + mu)    BinaryRelax, (w + mu projector(w)) / (1 + mu) (Yin et al., SIAM J. Imaging Sci. 2018)
    varrho = 0, rho = h (1 - 1/s)        PARQ's map of slope s (Jin et al., ICML 2025)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bitplane.format.levels import LevelSet


def piecewise_linear(
    latent: Tensor,
    levels: LevelSet,
    rho: float | Sequence[float],
    varrho: float | Sequence[float],
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Apply scale * L(latent / scale).

    Args:
        latent: float tensor of any shape; not modified.
        levels: the level set Q of b levels.
        rho: half width of the flat pieces around each level, in units of the level set; inf for the projector. One number, or
            one for each of the b - 1 intervals.
        varrho: half height of the jump at each midpoint, in the same unit and form.
        scale: positive factor of the level set, broadcastable to `latent` ([O, 1, 1, 1] for one a channel).

    Returns:
        A new tensor of the shape and dtype of `latent`.

    Raises:
        ValueError: rho or varrho is negative or NaN.
    """
    midpoints, gaps = levels.midpoints, levels.gaps
    widths, jumps = _each(rho, len(gaps), "rho"), _each(varrho, len(gaps), "varrho")
    halves = [g / 2 for g in gaps]
    if all(r >= h or v >= h for r, v, h in zip(widths, jumps, halves, strict=True)):
        return projector(latent, levels, scale)
    unit = _units(latent, scale)
    result = torch.full_like(unit, levels.values[0] + sum(halves))
    for p, h, r, v in zip(midpoints, halves, widths, jumps, strict=True):
        d = unit + (0.0 - p)  # never -0.0, whose sign copysign would take: sgn+ counts 0 as positive
        if r >= h or v >= h:
            result.add_(d.new_tensor(h).copysign(d))
            continue
        jump = d.new_tensor(v).copysign(d)
        slope = (h - v) / (h - r)
        result.add_((d if slope == 1 else d.mul_(slope)).add_(jump).clamp_(-h, h))
    return result if isinstance(scale, float) and scale == 1 else result.mul_(scale)


def projector(latent: Tensor, levels: LevelSet, scale: Tensor | float = 1.0) -> Tensor:
    """Project onto the nearest level of scale * Q (ties upwards): the limit rho = varrho = inf of L.

    Args:
        latent: float tensor of any shape; not modified.
        levels: the level set Q.
        scale: positive factor of the level set, broadcastable to `latent`.

    Returns:
        A new tensor whose values divided by `scale` are exactly levels.
    """
    unit = _units(latent, scale)
    result = torch.full_like(unit, levels.values[0])
    for p, q in zip(levels.midpoints, levels.values[1:], strict=True):
        # At weights of 0 and 1 exactly its two ends, and an order of magnitude faster on a CPU than `where` (torch 2.14).
        result.lerp_(result.new_tensor(q), unit.clone().ge_(p))
    return result if isinstance(scale, float) and scale == 1 else result.mul_(scale)


def _units(latent: Tensor, scale: Tensor | float) -> Tensor:
    return latent if isinstance(scale, float) and scale == 1 else latent / scale


def proxconnect(unit: Tensor, levels: LevelSet, r: float) -> Tensor:
    """L with rho = varrho = r, in units of the level set."""
    return piecewise_linear(unit, levels, r, r)


def binary_relax(unit: Tensor, levels: LevelSet, mu: float) -> Tensor:
    """(w + mu projector(w)) / (1 + mu) within [q_1, q_b]; exact for unequal gaps too."""
    share = 1.0 if math.isinf(mu) else mu / (1 + mu)
    return piecewise_linear(unit, levels, 0.0, [g / 2 * share for g in levels.gaps])


def parq(unit: Tensor, levels: LevelSet, slope: float) -> Tensor:
    """The continuous map that is flat around levels and has the given slope (at least 1) around midpoints."""
    return piecewise_linear(unit, levels, [g / 2 * (1 - 1 / slope) for g in levels.gaps], 0.0)


def _each(value: float | Sequence[float], count: int, name: str) -> list[float]:
    values = [float(value)] * count if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != count or not all(v >= 0 for v in values):
        raise ValueError(f"`{name}` (={value}) must be non-negative, one number or one for each of {count} intervals")
    return values
