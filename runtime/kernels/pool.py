"""Max-pooling and the parameter-free shortcut, on features [H, W, C], float32 or int32, C a multiple of 16."""

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.intrinsics import floats, max_window, move_vector, share, zero_vector
from bitplane.runtime.kernels.options import INNER

LANES = 16


@numba.njit(**INNER)
def pool_row(steps, i, arena, y, out, out_pixel, shift) -> None:  # noqa: ANN001
    """Row `y` of ONNX MaxPool at address `out`; `shift` is added to the address of the source.

    Every window touches at least one pixel, because pads are smaller than the kernel.
    """
    in_h, in_w = steps[i, f.SOURCE_HEIGHT], steps[i, f.SOURCE_WIDTH]
    row, pixel = steps[i, f.SOURCE_ROW], steps[i, f.SOURCE_STEP_X]
    integers = steps[i, f.SOURCE_KIND] == f.FROM_ACCUMULATORS
    top = y * steps[i, f.STRIDE_Y] - steps[i, f.PAD_TOP]
    first, last = max(top, 0), min(top + steps[i, f.KERNEL_ROWS], in_h)
    for x in range(steps[i, f.WIDTH]):
        left = x * steps[i, f.STRIDE_X] - steps[i, f.PAD_LEFT]
        start, stop = max(left, 0), min(left + steps[i, f.KERNEL_WIDTH], in_w)
        source = arena + steps[i, f.SOURCE] + first * row + start * pixel + shift
        max_window(integers, out + x * out_pixel, source, out_pixel, last - first, row, stop - start, pixel)


@numba.njit(**INNER)
def run_pad_shortcut(steps, i, arena, part, parts) -> None:  # noqa: ANN001
    """Subsample, then put zero channels around, FRONT of them in front."""
    channels, have, front = steps[i, f.CHANNELS], steps[i, f.SOURCE_CHANNELS], steps[i, f.FRONT]
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    for y in range(begin, end):
        for x in range(steps[i, f.WIDTH]):
            target = arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + x * steps[i, f.FEATURES_PIXEL]
            source = arena + steps[i, f.SOURCE] + y * steps[i, f.SOURCE_STEP_Y] + x * steps[i, f.SOURCE_STEP_X]
            if front % LANES == 0:
                for c in range(0, channels, LANES):
                    if front <= c < front + have:
                        move_vector(target + 4 * c, source + 4 * (c - front))
                    else:
                        zero_vector(target + 4 * c)
            else:
                out, tap = floats(target, channels), floats(source, have)
                for c in range(channels):
                    out[c] = tap[c - front] if front <= c < front + have else numba.float32(0)
