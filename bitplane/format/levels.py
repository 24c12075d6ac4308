"""Level sets: the finite sets Q that weights are driven to, and their bit-planes, as data.

A level set is stored as integers over one common denominator, so that the runtime can compute with integers only: ternary is
(-1, 0, 1) / 1 and quaternary is (-10, -3, 3, 10) / 10. An integer weight is `base` plus the coefficients of its set bits:

| set        | planes       | integer weight             |
|------------|--------------|----------------------------|
| binary     | sign         | 1 - 2 sign                 |
| ternary    | sign, mask   | mask - 2 sign              |
| quaternary | sign1, sign2 | 10 - 13 sign1 - 7 sign2    |
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.errors import BitplaneError


class LevelSetError(BitplaneError):
    """A level set that cannot be used."""


@dataclass(frozen=True)
class Plane:
    """One bit a weight.

    Attributes:
        name: of the operator's input in the packed file.
        coefficient: what a set bit adds to the integer weight.
    """

    name: str
    coefficient: int


@dataclass(frozen=True)
class LevelSet:
    """A symmetric, ascending set of weight levels.

    Attributes:
        name: the name used on the command line and in the packed file.
        integers: the levels multiplied by `denominator`, ascending.
        denominator: common denominator of all levels.
        unit_scale: the top level in standard deviations of a Gaussian (Lloyd-Max), from which the natural scale of a layer's
            level set is estimated.
        base: integer weight of a weight whose bits are all 0.
        planes: its bit-planes in the order of the packed file; empty if the format cannot hold the set.

    Raises:
        LevelSetError: the levels are not ascending and symmetric, or the planes do not make each level exactly once.
    """

    name: str
    integers: tuple[int, ...]
    denominator: int
    unit_scale: float
    base: int = 0
    planes: tuple[Plane, ...] = ()

    def __post_init__(self) -> None:
        q = self.integers
        what = f"level set `{self.name}` (={', '.join(map(str, q))})"
        if len(q) < 2:
            raise LevelSetError(f"{what} must have at least two levels")
        if any(a >= b for a, b in itertools.pairwise(q)):
            raise LevelSetError(f"{what} must be sorted, without repeated levels")
        if any(a != -b for a, b in zip(q, reversed(q), strict=True)):
            raise LevelSetError(f"{what} must be symmetric about 0")
        if self.denominator < 1 or not (math.isfinite(self.unit_scale) and self.unit_scale > 0):
            raise LevelSetError(f"{what} needs a positive denominator and unit scale")
        if self.planes and sorted(w for w in map(self.integer, self._patterns()) if w in q) != list(q):
            raise LevelSetError(f"{what} needs planes that make each level in one way")

    def _patterns(self) -> list[tuple[int, ...]]:
        """Every combination of the bits of one weight."""
        return list(itertools.product((0, 1), repeat=len(self.planes)))

    def integer(self, bits: Sequence[int]) -> int:
        """Integer weight of the bits of one weight, in the order of `planes`."""
        return self.base + sum(p.coefficient * bit for p, bit in zip(self.planes, bits, strict=True))

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

    @property
    def largest(self) -> int:
        """The largest magnitude of an integer weight."""
        return self.integers[-1]

    @property
    def plane_names(self) -> tuple[str, ...]:
        """Names of the planes in the packed file."""
        return tuple(p.name for p in self.planes)

    @property
    def sign_coefficients(self) -> tuple[int, ...]:
        """Of a set of sign planes: twice an integer weight is the sum of these, each times 1 or -1 by its plane."""
        coefficients = tuple(-p.coefficient for p in self.planes)
        if sum(coefficients) != 2 * self.base:
            raise LevelSetError(f"level set `{self.name}` has a plane that is no sign")
        return coefficients

    def to_planes(self, integers: NDArray[np.int8]) -> list[NDArray[np.bool_]]:
        """Decompose integer weights into bits.

        Args:
            integers: int8 of any shape; every element one of `integers`.

        Returns:
            One bool array of the same shape for each plane.

        Raises:
            ValueError: an element is not a level.
        """
        bad = ~np.isin(integers, self.integers)
        if bad.any():
            raise ValueError(f"{int(bad.sum())} of {integers.size} weights are not in {self.name} {self.integers}")
        bits_of = {self.integer(bits): bits for bits in self._patterns()}
        table = np.array([bits_of[level] for level in self.integers], bool)  # [level, plane]
        bits = table[np.searchsorted(self.integers, integers)]
        return [bits[..., plane] for plane in range(len(self.planes))]

    def from_planes(self, planes: Sequence[NDArray[np.generic]]) -> NDArray[np.int8]:
        """The inverse of `to_planes`: integer weights, int8, of the planes' shape."""
        total = np.full(planes[0].shape, self.base, np.int8)
        for plane, bits in zip(self.planes, planes, strict=True):
            total += np.int8(plane.coefficient) * bits.astype(np.int8)
        return total


BINARY = LevelSet("binary", (-1, 1), 1, 0.798, 1, (Plane("sign", -2),))
TERNARY = LevelSet("ternary", (-1, 0, 1), 1, 1.224, 0, (Plane("sign", -2), Plane("mask", 1)))
QUATERNARY = LevelSet("quaternary", (-10, -3, 3, 10), 10, 1.510, 10, (Plane("sign1", -13), Plane("sign2", -7)))

LEVEL_SETS = {s.name: s for s in (BINARY, TERNARY, QUATERNARY)}
"""Every known level set by name."""
