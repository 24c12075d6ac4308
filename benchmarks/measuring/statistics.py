"""Statistics of interleaved rounds, and numbers with no more digits than they deserve.

The unit that is resampled is a round: calls within one share whatever the machine was doing then.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from bitplane.benchmarks.results import Estimate, Stream

NOISY = 0.05
"""Relative spread of a fixed piece of work above which the machine counts as noisy."""


def median(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Median of the rounds' values and its 95 % percentile-bootstrap interval (Efron; scipy.stats.bootstrap)."""
    data = np.asarray(values, np.float64)
    middle = float(np.median(data))
    if len(data) < 3 or np.ptp(data) == 0:
        return Estimate(middle, float(data.min()), float(data.max()))
    found = bootstrap((data,), np.median, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
    return Estimate(middle, float(found.confidence_interval.low), float(found.confidence_interval.high))


def stream(rounds: Sequence[Sequence[float]]) -> Stream:
    """Latency of calls.

    Args:
        rounds: milliseconds of the calls of each round.
    """
    calls = np.concatenate([np.asarray(r, np.float64) for r in rounds])
    return Stream(
        ms=median([float(np.median(r)) for r in rounds]),
        p90=float(np.percentile(calls, 90)),
        p99=float(np.percentile(calls, 99)),
        calls=len(calls),
        rounds=len(rounds),
    )


def ratio(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Estimate:
    """How many times faster `other` is than `base`: the median over rounds of the ratio within a round."""
    return median([float(np.median(b)) / float(np.median(o)) for b, o in zip(base, other, strict=True)])


def spread(values: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), [25, 50, 75])
    return float((high - low) / middle)


def text(estimate: Estimate) -> str:
    """A number with the digits that its interval supports, four significant ones at most and one at least.

    The last digit's unit is no smaller than the half interval's leading decimal, unless it is the only one.
    """
    value, half = abs(estimate.value), max(estimate.high - estimate.value, estimate.value - estimate.low)
    if value == 0:
        return "0"
    digits = 3 - math.floor(math.log10(value))
    if half > 0:
        digits = max(digits - 3, min(digits, -math.floor(math.log10(half))))
    return f"{round(estimate.value, digits):.{max(digits, 0)}f}"
