"""Convolution steps: loops over channel groups, rows and tiles around each compiled tile.

Channel groups are the outer loop, so that a group's weights stay in L1 while the activations pass by. Work is numbered
group * rows + row and each thread takes one contiguous range, several rows a call: a narrow row takes as long as calling.
The last tile of a row overlaps the one before it; rows narrower than a tile use tiles of one pixel.
"""

from typing import Any

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.epilogue import run_epilogue
from bitplane.runtime.kernels.options import INNER
from bitplane.runtime.kernels.shapes import SCRATCH_BYTES
from bitplane.runtime.kernels.tiles import run_tiles

ROW_BYTES = 4


@numba.njit(**INNER)
def share(total, part, parts) -> Any:  # noqa: ANN001
    """First and one past the last item of thread `part` of `parts`."""
    return total * part // parts, total * (part + 1) // parts


@numba.njit(**INNER)
def run_conv(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """This thread's share of convolution step `i`."""
    height = steps[i, f.HEIGHT]
    begin, end = share(steps[i, f.GROUPS] * height, part, parts)
    conv_rows(steps, i, arena, constants, part, begin, end, 0, height, 0)


@numba.njit(**INNER)
def conv_rows(steps, i, arena, constants, part, begin, end, first, rows, shift) -> None:  # noqa: ANN001
    """Items [begin, end) of step `i`, numbered group * `rows` + row - `first`.

    `shift` is added to where features are stored.
    """
    width, mode = steps[i, f.WIDTH], steps[i, f.MODE]
    group_channels = steps[i, f.GROUP_CHANNELS]
    out_pixel = group_channels * ROW_BYTES
    scratch = arena + steps[i, f.SCRATCH] + part * steps[i, f.SCRATCH_PART]
    batch = rows if mode != f.MODE_ROW else max(1, SCRATCH_BYTES // (width * out_pixel))
    item = begin
    while item < end:
        group = item // rows
        y = first + item - group * rows
        count = min(batch, end - item, first + rows - y)
        item += count
        out_row = width * out_pixel
        out = scratch
        if mode == f.MODE_POOL:
            out = arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + group * group_channels * ROW_BYTES + shift
            out_pixel, out_row = steps[i, f.FEATURES_PIXEL], steps[i, f.FEATURES_ROW]
        elif mode != f.MODE_ROW:
            group_bytes = group_channels // 4 if mode == f.MODE_FOURS else group_channels // 8
            out = arena + steps[i, f.CODES] + y * steps[i, f.CODES_ROW] + group * group_bytes
            out_pixel, out_row = steps[i, f.CODES_PIXEL], steps[i, f.CODES_ROW]
        run_tiles(
            steps[i, f.TILE],
            width,
            count,
            steps[i, f.SRC_STEP_Y],
            out_row,
            arena + steps[i, f.SRC] + y * steps[i, f.SRC_STEP_Y],
            steps[i, f.SRC_PLANE],
            steps[i, f.SRC_PLANES],
            steps[i, f.SRC_ROW],
            steps[i, f.KERNEL_ROWS],
            steps[i, f.SRC_STEP_X],
            steps[i, f.KERNEL_WORDS],
            steps[i, f.SPAN],
            constants + steps[i, f.TABLE],
            constants + steps[i, f.WEIGHTS] + group * steps[i, f.WEIGHTS_GROUP],
            f.MODE_ROW if mode == f.MODE_POOL else mode,
            constants + steps[i, f.LIMITS] + group * steps[i, f.LIMITS_GROUP],
            out,
            out_pixel,
            steps[i, f.CODES_PLANE],
        )
        if mode == f.MODE_ROW:
            run_epilogue(steps, i, arena, constants, group, y, count, scratch, out_row, out_pixel, shift)


@numba.njit(**INNER)
def run_elementwise(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """Add, Relu, Quantize or Sign on features, where no convolution could take them into its epilogue."""
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    row, pixel = steps[i, f.SRC_STEP_Y], steps[i, f.SRC_STEP_X]
    run_epilogue(steps, i, arena, constants, 0, begin, end - begin, arena + steps[i, f.SRC] + begin * row, row, pixel, 0)
