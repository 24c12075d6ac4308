"""The classifier: mean over the pixels, then a matrix-vector product, float32 in one fixed order."""

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.intrinsics import floats
from bitplane.runtime.kernels.options import INNER


@numba.njit(**INNER)
def run_classifier(steps, i, arena, constants, logits) -> None:  # noqa: ANN001
    """Features [H, W, C] to the `GROUPS` logits at address `logits`; weights are [C, classes], bias [classes]."""
    channels, classes = steps[i, f.CHANNELS], steps[i, f.GROUPS]
    mean = floats(arena + steps[i, f.SCRATCH], channels)
    for c in range(channels):
        mean[c] = 0
    for y in range(steps[i, f.SRC_HEIGHT]):
        for x in range(steps[i, f.SRC_WIDTH]):
            tap = floats(arena + steps[i, f.SRC] + y * steps[i, f.SRC_ROW] + x * steps[i, f.SRC_STEP_X], channels)
            for c in range(channels):
                mean[c] += tap[c]
    area = numba.float32(steps[i, f.SRC_HEIGHT] * steps[i, f.SRC_WIDTH])
    out, bias = floats(logits, classes), floats(constants + steps[i, f.BIAS], classes)
    for j in range(classes):
        out[j] = bias[j]
    for c in range(channels):
        value = mean[c] / area
        row = floats(constants + steps[i, f.WEIGHTS] + c * steps[i, f.WEIGHTS_GROUP], classes)
        for j in range(classes):
            out[j] += value * row[j]
