"""Level sets from plain numbers: their integers and planes mean those numbers, or the reason why not is said."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.format.levels import LEVEL_SETS, LevelSet, LevelSetError, gaussian_scale, level_set

PAIRS = st.tuples(st.integers(1, 63), st.integers(1, 64)).filter(lambda pair: pair[0] < pair[1])


@given(
    pair=PAIRS,
    count=st.sampled_from([2, 3, 4]),
    top=st.fractions(Fraction(1, 50), 50, max_denominator=50),
    kind=st.sampled_from([float, np.float32, Fraction]),
)
def test_a_set_has_the_given_levels_and_planes_that_make_them(pair, count, top, kind) -> None:
    low, high = float(top * pair[0] / pair[1]), float(top)
    low, high = (Fraction(v).limit_denominator(10**6) if kind is Fraction else float(kind(v)) for v in (low, high))
    numbers = {2: [-high, high], 3: [-high, 0, high], 4: [-high, -low, low, high]}[count]
    found = level_set("mine", numbers)
    np.testing.assert_allclose(found.values, [float(n) for n in numbers], rtol=1e-6)
    packed = found.packed()
    assert packed is not None
    assert packed.name == "mine"
    ratio = np.array([float(n) for n in numbers]) / float(high)
    np.testing.assert_allclose(np.array(packed.integers) / packed.largest, ratio, rtol=1e-6)
    weights = np.random.default_rng(0).choice(packed.integers, (3, 50)).astype(np.int8)
    bits = packed.to_planes(weights)
    total = packed.base + sum(p.coefficient * b.astype(int) for p, b in zip(packed.planes, bits, strict=True))
    np.testing.assert_array_equal(total, weights)
    np.testing.assert_array_equal(packed.from_planes(bits), weights)
    assert len(bits) <= 2


def test_the_packages_own_sets_are_packed_as_they_are() -> None:
    assert all(levels.packed() is levels for levels in LEVEL_SETS.values())
    same = level_set("mine", [-1, -0.3, 0.3, 1]).packed()
    assert same is not None
    assert (same.base, same.planes) == (LEVEL_SETS["quaternary"].base, LEVEL_SETS["quaternary"].planes)


@pytest.mark.parametrize("levels", [LevelSet("five", (-2, -1, 0, 1, 2), 2, 1.6), LevelSet("fine", (-65, -2, 2, 65), 65, 1.5)])
def test_other_sets_have_no_packed_form(levels: LevelSet) -> None:
    assert levels.packed() is None


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ([-1, -0.333, 0.333, 1], "0.333 to 1 is no ratio of integers up to 64, .* take 1/3 of the top level, 0.33333333"),
        ([-2, -1.998, 1.998, 2], "1.998 to 2 is no ratio .* take 63/64 of the top level, 1.96875"),
        ([-1, -1e-5, 1e-5, 1], "take 1/64 of the top level, 0.015625"),
        ([-2, -1, 0, 1, 2], "has 5 levels; a sum of two planes has at most 4: take fewer levels"),
        ([-2, -1, 0, 1], "needs 2 to 4 levels, ascending and symmetric about 0"),
        ([-1, 1, 1, 1], "needs 2 to 4 levels, ascending and symmetric"),
        ([1, -1], "needs 2 to 4 levels, ascending and symmetric"),
        ([-1, 1, -1, 1], "needs 2 to 4 levels, ascending and symmetric"),
        ([-1e-9, 1e-9], "is too small to be kept as fractions; take 1"),
        ([0], "needs 2 to 4 levels"),
        ([], "needs 2 to 4 levels"),
        ([float("-inf"), float("inf")], "has a level that is no finite number"),
        ([float("nan"), 1], "has a level that is no finite number"),
    ],
)
def test_what_is_no_sum_of_two_planes_is_refused_with_the_reason(numbers: list[float], complaint: str) -> None:
    with pytest.raises(LevelSetError, match=complaint) as error:
        level_set("mine", numbers)
    assert str(error.value).startswith("level set `mine` (=")
    assert "\n" not in str(error.value)


def squared_error(levels: np.ndarray, scale: float) -> float:
    """E (x - s q(x / s))^2 of a standard Gaussian, by a sum over a grid."""
    x = np.linspace(-8, 8, 8001)
    nearest = np.abs(x[:, None] / scale - levels).min(1) * scale
    return float((nearest**2 * np.exp(-(x**2) / 2)).sum() * (x[1] - x[0]) / np.sqrt(2 * np.pi))


@pytest.mark.parametrize("name", sorted(LEVEL_SETS))
def test_the_scale_of_a_gaussian_is_that_of_the_literature(name: str) -> None:
    assert gaussian_scale(LEVEL_SETS[name].values) == pytest.approx(LEVEL_SETS[name].unit_scale, abs=5e-4)


@given(pair=PAIRS, zero=st.booleans())
def test_no_other_scale_fits_a_gaussian_better(pair: tuple[int, int], zero: bool) -> None:
    low, high = pair
    levels = np.array([-high, 0, high] if zero else [-high, -low, low, high], float)
    best = squared_error(levels, gaussian_scale(tuple(levels)))
    others = [squared_error(levels, scale) for scale in np.geomspace(0.3 / high, 2 / low, 60)]
    assert best <= min(others) + 1e-6
