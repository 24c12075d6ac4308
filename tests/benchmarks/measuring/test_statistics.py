import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.benchmarks.measuring import statistics
from bitplane.benchmarks.results import Estimate


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.44321, 0.431, 0.455, "0.44"),
        (0.44321, 0.4430, 0.4434, "0.4432"),
        (0.44321, 0.44321, 0.44321, "0.4432"),
        (23.4, 19.0, 31.0, "23"),
        (234.0, 170.0, 300.0, "230"),
        (12345.0, 12344.0, 12346.0, "12340"),
        (5.0, 1.0, 60.0, "5"),
        (0.0, 0.0, 0.0, "0"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_supports(value, low, high, shown):
    assert statistics.text(Estimate(value, low, high)) == shown


@given(st.floats(1e-3, 1e4), st.floats(0, 1), st.floats(0, 1))
def test_what_is_shown_lies_as_near_as_the_interval_is_wide(value, below, above):
    estimate = Estimate(value, value * (1 - below), value * (1 + above))
    half = max(estimate.high - value, value - estimate.low)
    assert abs(float(statistics.text(estimate)) - value) <= max(half, 0.5 * 10 ** (math.floor(math.log10(value)) - 3)) * 1.001


def test_the_interval_is_that_of_the_median_over_rounds():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = statistics.median(rng.normal(10, 1, 25))
        covered += found.low <= 10 <= found.high
    assert 0.88 <= covered / 200 <= 1  # 95 % nominally


def test_a_ratio_is_paired_within_rounds():
    # Both become ten times slower in half of the rounds: the ratio does not see it.
    pace = [1.0, 10.0] * 6
    found = statistics.ratio([[2.0 * p] * 3 for p in pace], [[p] * 3 for p in pace])
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_a_stream_has_its_percentiles_over_all_calls():
    rounds = [list(np.arange(1, 101) / 10)] * 4
    found = statistics.stream(rounds)
    assert (found.calls, found.rounds) == (400, 4)
    assert found.ms.value == pytest.approx(5.05)
    assert found.p90 == pytest.approx(np.percentile(np.concatenate(rounds), 90))
    assert found.p99 == pytest.approx(np.percentile(np.concatenate(rounds), 99))
