"""Level sets: the finite sets Q that weights are driven to, and their decomposition into bit-planes.

A level set is stored as integers over one common denominator, so that the runtime can compute with
integers only: ternary is (-1, 0, 1)/1 and quaternary is (-10, -3, 3, 10)/10.

Planes (one bit a weight; a set bit is a negative weight in a sign plane, a nonzero one in a mask plane):

    binary      sign                     w = 1 - 2 sign
    ternary     sign, mask               w = mask (1 - 2 sign)
    quaternary  sign (of b1), sign2 (b2) w = (13 b1 + 7 b2) / 2, b = 1 - 2 sign      in tenths
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitplane.train.errors import ConfigError


@dataclass(frozen=True)
class LevelSet:
    """A symmetric, ascending set of weight levels; any other raises ConfigError.

    Attributes:
        name: the name used on the command line and in the packed file.
        integers: the levels multiplied by `denominator`, ascending.
        denominator: common denominator of all levels.
        unit_scale: the top level in standard deviations of a Gaussian (Lloyd-Max), from which the natural
            scale of a layer's level set is estimated.
    """

    name: str
    integers: tuple[int, ...]
    denominator: int
    unit_scale: float

    def __post_init__(self) -> None:
        q = self.integers
        what = f"level set `{self.name}` (={', '.join(map(str, q))})"
        if len(q) < 2:
            raise ConfigError(f"{what} must have at least two levels")
        if any(a >= b for a, b in itertools.pairwise(q)):
            raise ConfigError(f"{what} must be sorted, without repeated levels")
        if any(a != -b for a, b in zip(q, reversed(q), strict=True)):
            raise ConfigError(f"{what} must be symmetric about 0")
        if self.denominator < 1 or not (math.isfinite(self.unit_scale) and self.unit_scale > 0):
            raise ConfigError(f"{what} needs a positive denominator and unit scale")

    @property
    def values(self) -> tuple[float, ...]:
        """The levels q_1 < ... < q_b as floats."""
        return tuple(i / self.denominator for i in self.integers)

    @property
    def midpoints(self) -> tuple[float, ...]:
        """The decision points p_2 ... p_b between neighboring levels."""
        v = self.values
        return tuple((a + b) / 2 for a, b in itertools.pairwise(v))

    @property
    def gaps(self) -> tuple[float, ...]:
        """The distances between neighboring levels."""
        return tuple((b - a) / self.denominator for a, b in itertools.pairwise(self.integers))


BINARY = LevelSet("binary", (-1, 1), 1, 0.798)
TERNARY = LevelSet("ternary", (-1, 0, 1), 1, 1.224)
QUATERNARY = LevelSet("quaternary", (-10, -3, 3, 10), 10, 1.510)

LEVEL_SETS = {s.name: s for s in (BINARY, TERNARY, QUATERNARY)}


def to_planes(integers: npt.NDArray[np.int8], levels: LevelSet) -> list[npt.NDArray[np.bool_]]:
    """Decompose integer levels into the planes of `levels`.

    Args:
        integers: int8 array of any shape; every element one of `levels.integers`.
        levels: the level set.

    Returns:
        One bool array of the same shape for binary (sign), two for ternary (sign, mask) and quaternary
        (sign of b1, sign of b2).

    Raises:
        ValueError: an element is not a level.
    """
    bad = ~np.isin(integers, levels.integers)
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {integers.size} weights are not in {levels.name} {levels.integers}")
    sign = integers < 0
    if levels.name == "binary":
        return [sign]
    if levels.name == "ternary":
        return [sign, integers != 0]
    return [sign, (integers == -10) | (integers == 3)]


def from_planes(planes: list[npt.NDArray[np.bool_]], levels: LevelSet) -> npt.NDArray[np.int8]:
    """The inverse of `to_planes`: integer levels, int8, of the planes' shape."""
    signs = [1 - 2 * p.astype(np.int8) for p in planes]
    if levels.name == "binary":
        return signs[0]
    if levels.name == "ternary":
        return signs[0] * planes[1].astype(np.int8)
    return ((13 * signs[0] + 7 * signs[1]) // 2).astype(np.int8)
