"""Schedules as plain functions of the gradient step: the learning rate, and the sharpness of the quantizer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Form = Literal["hard", "constant", "linear", "geometric", "sigmoid", "share"]


def warmup_cosine(step: int, total: int, peak: float, warmup: int) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall to 0 along half a cosine at `total` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


@dataclass(frozen=True)
class Sharpness:
    """The sharpness of a quantizer at a gradient step t; infinite (the projector) from step `hard_from` on.

    With x = t / hard_from, the form is one of

        hard        infinite from the first step
        constant    first
        linear      first (1 + t / period)                           Dockhorn et al., NeurIPS 2021, section 5
        geometric   first (last / first)^x                           BinaryRelax, mirror descent
        share       x                                                a share that grows from 0 to 1
        sigmoid     1 / (1 - s(x)), s a logistic of width 1 / last rescaled to [0, 1]    PARQ's slope, from 1 to infinity

    Attributes:
        form: see above.
        first: value at step 0, in the quantizer's own unit.
        last: value that "geometric" reaches at `hard_from`; steepness of "sigmoid".
        period: gradient steps after which "linear" has grown by `first` (B in the paper).
        hard_from: gradient step from which the quantizer is the projector.
    """

    form: Form
    first: float
    last: float
    period: float
    hard_from: int

    def __call__(self, step: int) -> float:
        """The sharpness at gradient step `step`."""
        return math.inf if step >= self.hard_from else _FORMS[self.form](self, step)


def _sigmoid(s: Sharpness, step: int) -> float:
    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-s.last * (x - 0.5)))

    low, high = logistic(0.0), logistic(1.0)
    return 1 / max(1e-12, 1 - (logistic(step / s.hard_from) - low) / (high - low))


_FORMS: dict[str, Callable[[Sharpness, int], float]] = {
    "hard": lambda s, t: math.inf,
    "constant": lambda s, t: s.first,
    "linear": lambda s, t: (1 + t / s.period) * s.first,
    "geometric": lambda s, t: s.first * (s.last / s.first) ** (t / s.hard_from),
    "share": lambda s, t: t / s.hard_from,
    "sigmoid": _sigmoid,
}
