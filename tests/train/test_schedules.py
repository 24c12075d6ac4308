import itertools
import math

import pytest

from bitplane.train.schedules import Sharpness, warmup_cosine


def test_the_papers_schedule_grows_linearly_and_then_is_hard():
    s = Sharpness("linear", 0.01, math.inf, 5, 20)
    assert [s(0), s(5), s(10)] == pytest.approx([0.01, 0.02, 0.03])
    assert s(20) == math.inf


def test_a_geometric_schedule_meets_its_ends():
    s = Sharpness("geometric", 2.0, 50.0, 1, 100)
    assert s(0) == 2.0
    assert s(50) == pytest.approx(10.0)
    assert s(99) < 50.0
    assert s(100) == math.inf


def test_parqs_slope_starts_at_one_and_grows_to_infinity():
    s = Sharpness("sigmoid", 1.0, 10.0, 1, 100)
    slopes = [s(t) for t in range(101)]
    assert slopes[0] == 1.0
    assert slopes[50] == pytest.approx(2.0)
    assert all(a < b for a, b in itertools.pairwise(slopes))
    assert slopes[99] > 500


def test_a_share_grows_from_nothing_to_everything():
    s = Sharpness("share", 0, 0, 1, 4)
    assert [s(t) for t in range(5)] == [0, 0.25, 0.5, 0.75, math.inf]


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [warmup_cosine(t, 100, 0.4, 10) for t in range(101)]
    assert max(rates) == pytest.approx(0.4)
    assert rates[9] == pytest.approx(0.4)
    assert rates[0] == pytest.approx(0.04)
    assert rates[100] == pytest.approx(0, abs=1e-12)
