"""Max-pooling, with the convolution before it and the quantizer after it, and the parameter-free shortcut.

All on features [H, W, C], float32, C a multiple of 16.
"""

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.conv import conv_rows, share
from bitplane.runtime.kernels.epilogue import BLOCK, run_epilogue
from bitplane.runtime.kernels.intrinsics import floats, max_window, move_vector, zero_vector
from bitplane.runtime.kernels.options import INNER

LANES = 16


@numba.njit(**INNER)
def run_max_pool(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """ONNX MaxPool; every window touches at least one pixel, because pads are smaller than the kernel."""
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    _pool_rows(steps, i, arena, constants, part, begin, end, 0)


@numba.njit(**INNER)
def run_band(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """Convolution step `i` and the max pool after it, `BAND` rows of the pool at a time.

    What the convolution makes, most of a network's features at 224x224, never leaves the second cache: a thread has room for
    the rows that one band of the pool reads, [rows][W][C], and moves those that the next band reads too to its start.

    Where it makes int32 accumulators, the pool takes the largest of those and the epilogue follows, for a quarter of the
    pixels: scales are positive, so every operation of the epilogue keeps the order of two values, its rounding included.
    """
    pool = i + 1
    row, stride, size = steps[i, f.FEATURES_ROW], steps[pool, f.STRIDE_Y], steps[pool, f.KERNEL_ROWS]
    place = part * ((steps[i, f.BAND] - 1) * stride + size) * row
    buffer = arena + steps[i, f.FEATURES] + place
    begin, end = share(steps[pool, f.HEIGHT], part, parts)
    low, high = 0, 0  # rows of the convolution that the buffer holds
    y = begin
    while y < end:
        after = min(y + steps[i, f.BAND], end)
        first = max(y * stride - steps[pool, f.PAD_TOP], 0)
        last = min((after - 1) * stride - steps[pool, f.PAD_TOP] + size, steps[i, f.HEIGHT])
        if first < high:
            for at in range(0, (high - first) * row, BLOCK):
                move_vector(buffer + at, buffer + (first - low) * row + at)
        else:
            high = first
        low = first
        shift = place - low * row
        conv_rows(steps, i, arena, constants, part, 0, steps[i, f.GROUPS] * (last - high), high, last - high, shift)
        high = last
        _pool_rows(steps, pool, arena, constants, part, y, after, shift)
        y = after


@numba.njit(**INNER)
def _pool_rows(steps, i, arena, constants, part, begin, end, shift) -> None:  # noqa: ANN001
    """Rows [begin, end) of pool `i`; `shift` is added to the address of its source."""
    in_h, in_w, row, pixel = steps[i, f.SRC_HEIGHT], steps[i, f.SRC_WIDTH], steps[i, f.SRC_ROW], steps[i, f.SRC_STEP_X]
    out_pixel, integers = steps[i, f.CHANNELS] * 4, steps[i, f.SRC_KIND] == f.FROM_ACCUMULATORS
    scratch = arena + steps[i, f.SCRATCH] + part * steps[i, f.SCRATCH_PART]
    has_epilogue = integers or steps[i, f.QUANT] != f.QUANT_NONE
    for y in range(begin, end):
        out = scratch if has_epilogue else arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW]
        top = y * steps[i, f.STRIDE_Y] - steps[i, f.PAD_TOP]
        first, last = max(top, 0), min(top + steps[i, f.KERNEL_ROWS], in_h)
        for x in range(steps[i, f.WIDTH]):
            left = x * steps[i, f.STRIDE_X] - steps[i, f.PAD_LEFT]
            start, stop = max(left, 0), min(left + steps[i, f.KERNEL_WIDTH], in_w)
            source = arena + steps[i, f.SRC] + first * row + start * pixel + shift
            max_window(integers, out + x * out_pixel, source, out_pixel, last - first, row, stop - start, pixel)
        if has_epilogue:
            run_epilogue(steps, i, arena, constants, 0, y, 1, scratch, 0, out_pixel, 0)


@numba.njit(**INNER)
def run_pad_shortcut(steps, i, arena, part, parts) -> None:  # noqa: ANN001
    """Subsample, then put zero channels around: PAD_LEFT is the number of channels put in front."""
    channels, have, front = steps[i, f.CHANNELS], steps[i, f.SRC_CHANNELS], steps[i, f.PAD_LEFT]
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    for y in range(begin, end):
        for x in range(steps[i, f.WIDTH]):
            target = arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + x * steps[i, f.FEATURES_PIXEL]
            source = arena + steps[i, f.SRC] + y * steps[i, f.SRC_STEP_Y] + x * steps[i, f.SRC_STEP_X]
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
