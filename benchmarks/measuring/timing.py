"""Measuring: callables take turns in short rounds, so that a busy moment of the machine hits all of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Latency:
    """Statistics over all calls, in milliseconds."""

    median: float
    average: float
    minimum: float
    maximum: float
    p90: float
    calls: int


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int = 30, seconds: float = 0.01) -> dict[str, Latency]:
    """Time callables in turns.

    Args:
        calls: name to callable.
        rounds: turns each gets; the first is warm-up and left out.
        seconds: length of a turn.

    Returns:
        Name to statistics.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            end = time.perf_counter() + seconds
            while True:
                t = time.perf_counter()
                call()
                now = time.perf_counter()
                if turn:
                    times[name].append(now - t)
                if now >= end:
                    break
    return {name: _latency(np.array(t) * 1e3) for name, t in times.items()}


def _latency(t: np.ndarray) -> Latency:
    return Latency(
        median=float(np.median(t)),
        average=float(t.mean()),
        minimum=float(t.min()),
        maximum=float(t.max()),
        p90=float(np.percentile(t, 90)),
        calls=len(t),
    )


def accuracy(
    run: Callable[[npt.NDArray[np.uint8]], npt.ArrayLike], images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> float:
    """Top-1 accuracy of `run` (uint8 [N, C, H, W] to logits [N, classes]) in batches of 100."""
    right = 0
    for i in range(0, len(images), 100):
        logits = np.asarray(run(np.array(images[i : i + 100])))
        right += int((logits.argmax(1) == labels[i : i + 100]).sum())
    return right / len(images)
