"""Level sets: the finite sets Q that weights are driven to, and their bit-planes, as data.

A level set is stored as integers over one common denominator, so that the runtime can compute with integers only: ternary is
(-1, 0, 1) / 1 and quaternary is (-10, -3, 3, 10) / 10. An integer weight is `base` plus the coefficients of its set bits:

| set        | planes       | integer weight             |
|------------|--------------|----------------------------|
| binary     | sign         | 1 - 2 sign                 |
| ternary    | sign, mask   | mask - 2 sign              |
| quaternary | sign1, sign2 | 10 - 13 sign1 - 7 sign2    |
| four-level | sign1, sign2 | high - (high + low) sign1 - (high - low) sign2, levels low < high |

Every symmetric set of two to four levels is a sum of at most two planes, so these four rows are all sets that the packed format
can hold: two levels are binary times a factor, three are ternary times a factor.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bitplane.errors import BitplaneError
from bitplane.format.limits import LEVEL_LIMIT

TOLERANCE = 1e-7
"""Largest relative error of a level that is a fraction, as a float32 or eight decimals give it."""


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
        unit_scale: the factor by which the set fits a standard Gaussian best in least squares (Lloyd-Max), from which the
            scale of a layer's level set is estimated.
        base: integer weight of a weight whose bits are all 0.
        planes: its bit-planes in the order of the packed file; empty where `packed` finds them, if there are any.

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

    def packed(self) -> "LevelSet | None":
        """The set as the packed format holds it: integers without a common factor, which are sums of at most two planes.

        Returns:
            A set of the same name whose levels are this one's times `denominator / gcd(integers)`, with planes; None if it has
            more than four levels, or integers above `LEVEL_LIMIT`.
        """
        if self.planes:
            return self
        factor = math.gcd(*self.integers)
        integers = tuple(i // factor for i in self.integers)
        *_, low, high = (0, *integers)
        if len(integers) > 4 or high > LEVEL_LIMIT:
            return None
        if len(integers) < 4:
            like = BINARY if len(integers) == 2 else TERNARY
            base, planes = like.base, like.planes
        else:
            base, planes = high, (Plane("sign1", -high - low), Plane("sign2", low - high))
        return replace(self, integers=integers, denominator=1, unit_scale=gaussian_scale(integers), base=base, planes=planes)

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


@lru_cache
def gaussian_scale(levels: tuple[float, ...]) -> float:
    """The factor s of least E (x - s q(x / s))^2 for a standard Gaussian x, where q takes the nearest of symmetric `levels`.

    Lloyd-Max quantization (Max, 1960) with one free factor: regression and projection in turn, from several starts, since sets
    of very different levels have several local minima; the best is kept.
    """
    positive = [level for level in levels if level > 0]
    edges = [*((a + b) / 2 for a, b in itertools.pairwise([0.0, *positive] if 0 in levels else positive)), math.inf]
    edges = edges if 0 in levels else [0.0, *edges]

    def moments(scale: float) -> tuple[float, float]:
        """E |x| q and E q^2, over one side."""
        cells = list(zip(positive, itertools.pairwise(edge * scale for edge in edges), strict=True))
        first = sum(q * (math.exp(-a * a / 2) - math.exp(-b * b / 2)) for q, (a, b) in cells) / math.sqrt(2 * math.pi)
        second = sum(q * q * (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2 for q, (a, b) in cells)
        return first, second

    found: list[tuple[float, float]] = []
    for scale in (0.8 / positive[0], 1.2 / positive[-1], 1.6 / positive[-1], 2.4 / positive[-1]):
        for _ in range(200):
            first, second = moments(scale)
            previous, scale = scale, first / second if second > 0 else scale / 2
            if abs(scale - previous) < 1e-9 * scale:
                break
        first, second = moments(scale)
        found.append((scale * scale * second - 2 * scale * first, scale))
    return min(found)[1]


def level_set(name: str, levels: Sequence[float]) -> LevelSet:
    """A level set of plain numbers, which trains, exports, and runs as a sum of at most two planes.

    Args:
        name: what `weights` and `layer_weights` will call it.
        levels: two to four numbers, ascending, symmetric about 0: fractions, or floats within 1e-7 of them. The ratio of the
            two magnitudes of four levels is one of integers up to 64.

    Returns:
        The set; `bitplane.register_level_set` makes it known to training.

    Raises:
        LevelSetError: it is no such set; the message says why, and names the nearest set where only the ratio is to blame.
    """
    from fractions import Fraction  # not above: a runtime that only reads files needs none

    numbers = [float(v) for v in levels]
    what = f"level set `{name}` (={', '.join(f'{v:g}' for v in numbers)})"
    if not all(map(math.isfinite, numbers)):
        raise LevelSetError(f"{what} has a level that is no finite number")
    if len(numbers) > 4:
        raise LevelSetError(f"{what} has {len(numbers)} levels; a sum of two planes has at most 4: take fewer levels")
    is_symmetric = all(abs(a + b) <= TOLERANCE * numbers[-1] for a, b in zip(numbers, reversed(numbers), strict=True))
    if len(numbers) < 2 or not is_symmetric or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise LevelSetError(f"{what} needs 2 to 4 levels, ascending and symmetric about 0, such as -1, 0, 1")
    *_, low, top = (Fraction(v) if isinstance(v, Fraction) else Fraction(float(v)) for v in (0.0, *levels))
    positive = [top.limit_denominator(1 << 20)]
    if abs(positive[0] - top) > TOLERANCE * top:
        raise LevelSetError(f"{what} is too small to be kept as fractions; take 1 as its top level, which `scale` multiplies")
    if len(numbers) == 4:
        nearest = (low / top).limit_denominator(LEVEL_LIMIT)
        if not 0 < nearest < 1 or abs(nearest - low / top) > TOLERANCE * nearest:
            nearest = min(max(nearest, Fraction(1, LEVEL_LIMIT)), Fraction(LEVEL_LIMIT - 1, LEVEL_LIMIT))
            raise LevelSetError(
                f"{what}: {float(low):g} to {float(top):g} is no ratio of integers up to {LEVEL_LIMIT}, as the planes need;"
                f" take {nearest} of the top level, {float(nearest * top):.8g}"
            )
        positive = [positive[0] * nearest, *positive]
    fractions = [*(-v for v in reversed(positive)), *([Fraction(0)] if len(numbers) == 3 else []), *positive]
    denominator = math.lcm(*(f.denominator for f in fractions))
    scale = gaussian_scale(tuple(float(f) for f in fractions))
    return LevelSet(name, tuple(int(f * denominator) for f in fractions), denominator, scale)


@lru_cache
def four_levels(low: int, high: int) -> LevelSet:
    """The set {-high, -low, low, high} of a `FourLevelConv` or `FourLevelWeight`, 0 < low < high <= `LEVEL_LIMIT`."""
    integers = (-high, -low, low, high)
    planes = (Plane("sign1", -high - low), Plane("sign2", low - high))
    return LevelSet(f"four-level {low}:{high}", integers, 1, gaussian_scale(integers), high, planes)


BINARY = LevelSet("binary", (-1, 1), 1, 0.798, 1, (Plane("sign", -2),))
TERNARY = LevelSet("ternary", (-1, 0, 1), 1, 1.224, 0, (Plane("sign", -2), Plane("mask", 1)))
QUATERNARY = LevelSet("quaternary", (-10, -3, 3, 10), 10, 1.510, 10, (Plane("sign1", -13), Plane("sign2", -7)))

LEVEL_SETS = {s.name: s for s in (BINARY, TERNARY, QUATERNARY)}
"""Every known level set by name."""
