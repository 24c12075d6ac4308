"""Where the time of a network goes: every step timed by itself, as a Chrome trace (chrome://tracing, Perfetto).

Steps are those of the plan, in order, run one at a time by the compiled walker, image after image, on one thread. A step's time
includes one call from Python, which is measured on a step that does nothing and taken off.
"""

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.execute.call import Call, instructions_of
from bitplane.runtime.execute.machine_code import RunPlan
from bitplane.runtime.plan.plan import Plan


@dataclass(frozen=True)
class StepTime:
    """A step of a plan.

    Attributes:
        name: of its first node.
        kernel: what ran, for people; of a convolution that ran with its pool, both.
        product: of a convolution: "popcount", "look-up", "bytes" or "float32"; "" of anything else.
        lanes: bits of a lane of its tile; 0 of anything else.
        multiply_adds: of one image; 0 where there are none.
        us: microseconds of one image, median over images.
    """

    name: str
    kernel: str
    product: str
    lanes: int
    multiply_adds: int
    us: float

    @property
    def gmacs(self) -> float:
        """Giga multiply-adds a second."""
        return self.multiply_adds / self.us / 1e3 if self.us > 0 else 0.0


@dataclass(frozen=True)
class Event:
    """One run of one step: its index, its start and its length, in nanoseconds of `time.perf_counter_ns`, and its thread."""

    step: int
    start: int
    length: int
    thread: int


def run_steps(
    run_plan: RunPlan, plan: Plan, arena: NDArray[np.uint8], images: NDArray[Any], logits: NDArray[np.float32]
) -> list[Event]:
    """Run a plan step by step.

    Args:
        run_plan: the compiled walker.
        plan: the plan.
        arena: memory of the plan.
        images: [N, C, H, W], C-contiguous, as the model takes them.
        logits: float32 [N, classes], written.

    Returns:
        One event a step and image, in the order they ran.
    """
    events: list[Event] = []
    clock = time.perf_counter_ns
    calls = [instructions_of(plan, arena.ctypes.data, first, count) for first, count in _steps(plan)]
    empty, thread = _empty_call(run_plan), threading.get_native_id()
    for image, out in zip(images, logits, strict=True):
        here = [c._replace(images=image.ctypes.data, logits=out.ctypes.data) for c in calls]
        for step, call in enumerate(here):
            start = clock()
            run_plan(*call)
            events.append(Event(step, start, max(0, clock() - start - empty), thread))
    return events


def _steps(plan: Plan) -> list[tuple[int, int]]:
    """First instruction and number of instructions of each step: 2 where a convolution runs with its pool."""
    numbers = [s.step for s in plan.steps]
    return [(numbers.index(number), numbers.count(number)) for number in dict.fromkeys(numbers)]


def _empty_call(run_plan: RunPlan) -> int:
    """Nanoseconds of a call that walks no step: median of 101."""
    clock = time.perf_counter_ns
    taken: list[int] = []
    for _ in range(101):
        start = clock()
        run_plan(*Call(0, 0, 0, 0))
        taken.append(clock() - start)
    return sorted(taken)[50]


def summarize(plan: Plan, events: Sequence[Event], multiply_adds: dict[str, int]) -> list[StepTime]:
    """One row a step, in the plan's order.

    Args:
        plan: the plan that ran.
        events: what `run_steps` returned.
        multiply_adds: layer name to multiply-adds of one image.
    """
    steps = _steps(plan)
    lengths: list[list[int]] = [[] for _ in steps]
    for e in events:
        lengths[e.step].append(e.length)
    out: list[StepTime] = []
    for (first, count), times in zip(steps, lengths, strict=True):
        head, *more = plan.steps[first : first + count]
        text = " | ".join([head.kernel.text, *(s.kernel.text for s in more)])
        us = float(np.median(times)) / 1e3 if times else 0.0
        work = multiply_adds.get(head.name, 0) if head.is_layer else 0
        out.append(StepTime(head.name, text, head.kernel.product, head.kernel.lanes, work, us))
    return out


def chrome_trace(plan: Plan, events: Sequence[Event], steps: Sequence[StepTime], model: str) -> str:
    """The events as JSON in the Trace Event Format: complete events ("ph": "X"), microseconds."""
    first = min((e.start for e in events), default=0)
    out = [
        {
            "name": steps[e.step].name,
            "cat": "Node",
            "ph": "X",
            "pid": os.getpid(),
            "tid": e.thread,
            "ts": (e.start - first) / 1e3,
            "dur": e.length / 1e3,
            "args": {
                "kernel": steps[e.step].kernel,
                "multiply_adds": steps[e.step].multiply_adds,
                "gmacs": round(steps[e.step].multiply_adds / e.length, 2) if e.length else 0.0,
            },
        }
        for e in sorted(events, key=lambda e: e.start)
    ]
    return json.dumps({"traceEvents": out, "displayTimeUnit": "ms", "otherData": {"model": model}})
