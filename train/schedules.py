"""Learning-rate schedules as plain functions of the gradient step."""

import math


def warmup_cosine(step: int, total: int, peak: float, warmup: int) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall to 0 along half a cosine at `total` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
