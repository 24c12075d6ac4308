"""Max-pooling and the parameter-free shortcut, both on features [H, W, C], float32, C a multiple of 16."""

import math

import numba
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.conv import share
from bitplane.runtime.kernels.intrinsics import floats
from bitplane.runtime.kernels.options import INNER


@numba.njit(**INNER)
def run_max_pool(steps, i, arena, part, parts) -> None:  # noqa: ANN001
    """ONNX MaxPool; every window touches at least one pixel, because pads are smaller than the kernel."""
    channels, in_h, in_w = steps[i, f.CHANNELS], steps[i, f.SRC_HEIGHT], steps[i, f.SRC_WIDTH]
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    for y in range(begin, end):
        top = y * steps[i, f.STRIDE_Y] - steps[i, f.PAD_TOP]
        for x in range(steps[i, f.WIDTH]):
            left = x * steps[i, f.STRIDE_X] - steps[i, f.PAD_LEFT]
            out = floats(arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + x * steps[i, f.FEATURES_PIXEL], channels)
            for c in range(channels):
                out[c] = -math.inf
            for v in range(max(top, 0), min(top + steps[i, f.KERNEL_ROWS], in_h)):
                for u in range(max(left, 0), min(left + steps[i, f.KERNEL_WIDTH], in_w)):
                    tap = floats(arena + steps[i, f.SRC] + v * steps[i, f.SRC_ROW] + u * steps[i, f.SRC_STEP_X], channels)
                    for c in range(channels):
                        out[c] = tap[c] if tap[c] > out[c] else out[c]


@numba.njit(**INNER)
def run_pad_shortcut(steps, i, arena, part, parts) -> None:  # noqa: ANN001
    """Subsample, then put zero channels around: PAD_LEFT is the number of channels put in front."""
    channels, have, front = steps[i, f.CHANNELS], steps[i, f.SRC_CHANNELS], steps[i, f.PAD_LEFT]
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    for y in range(begin, end):
        for x in range(steps[i, f.WIDTH]):
            out = floats(arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + x * steps[i, f.FEATURES_PIXEL], channels)
            tap = floats(arena + steps[i, f.SRC] + y * steps[i, f.SRC_STEP_Y] + x * steps[i, f.SRC_STEP_X], have)
            for c in range(channels):
                out[c] = 0
            for c in range(have):
                out[front + c] = tap[c]
