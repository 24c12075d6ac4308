"""Steps that end in the float epilogue or in codes: convolutions, max pools, and elementwise ones.

A convolution's channel groups are the outer loop, so that a group's weights stay in L1 while the activations pass by. Work is
numbered group * rows + row and done several rows a call: a narrow row takes as long as calling. The last tile of a row overlaps
the one before it; rows narrower than a tile use tiles of one pixel.

A thread takes whole rows, and some groups of the rows it shares with its neighbors, so that all have the same work. It could
take groups of all rows and read half of the weights, but two threads that write one pixel's codes pass its cache line to and
fro: on a Zen 5, two threads (with `session.SHARED_STEP_WORK` at 0) then took 135 us at best for the ternary, 2-bit ResNet-20 of
the examples, and 70 us with whole rows.

Tiles and epilogues are called at one place in the whole program, in `_run_rows`: numba compiles a function again for each of
its callers.
"""

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.epilogue import run_epilogue
from bitplane.runtime.kernels.intrinsics import address_of, move_vector, share
from bitplane.runtime.kernels.options import INNER
from bitplane.runtime.kernels.pool import pool_row
from bitplane.runtime.kernels.shapes import SCRATCH_BYTES
from bitplane.runtime.kernels.tiles import run_tiles

ROW_BYTES = 4
VECTOR_BYTES = 64


@numba.njit(**INNER)
def run_features(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """This thread's share of step `i`: a convolution, a max pool, an elementwise step, or a convolution and the pool after it.

    In the last case `BAND` rows of the pool run at a time. What the convolution makes, most of a network's features at 224x224,
    then never leaves the L2 cache: a thread has room for the rows that one band of the pool reads, [rows][W][C], and moves
    those that the next band reads too to its start.

    Where it makes int32 accumulators, the pool takes the largest of those and the epilogue follows, for a quarter of the
    pixels: scales are positive, so every operation of the epilogue keeps the order of two values, its rounding included.
    """
    band, pool = steps[i, f.BAND], i + 1 if steps[i, f.BAND] > 0 else i
    row, stride, size = steps[i, f.FEATURES_ROW], steps[pool, f.STRIDE_Y], steps[pool, f.KERNEL_ROWS]
    place = part * steps[i, f.BAND_ROWS] * row
    buffer = arena + steps[i, f.FEATURES] + place
    y, stop = share(steps[pool, f.HEIGHT], part, parts)
    low, high, after, shift = 0, 0, 0, 0  # [low, high): rows of the convolution that the buffer holds
    turn = 0
    while True:
        if band <= 0:
            if turn == 3:
                break
            step, groups = i, steps[i, f.GROUPS]
            start, end = share(groups * steps[i, f.HEIGHT], part, parts)
            whole = (start + groups - 1) // groups  # the first row of which this thread has all groups
            if turn == 0:
                first, rows, begin, end = start // groups, 1, start % groups, min(groups, start % groups + end - start)
                if begin == 0:
                    end = 0
            elif turn == 1:
                first, rows = whole, end // groups - whole
                begin, end = 0, groups * rows
            else:
                first, rows, begin, end = end // groups, 1, 0, end % groups
                if first < whole:
                    end = 0  # in the middle of the row of turn 0
        elif turn % 2 == 0:
            if y >= stop:
                break
            after = min(y + band, stop)
            top = max(y * stride - steps[pool, f.PAD_TOP], 0)
            bottom = min((after - 1) * stride - steps[pool, f.PAD_TOP] + size, steps[i, f.HEIGHT])
            if top < high:
                for at in range(0, (high - top) * row, VECTOR_BYTES):
                    move_vector(buffer + at, buffer + (top - low) * row + at)
            else:
                high = top
            step, first, rows = i, high, bottom - high
            begin, end = 0, steps[i, f.GROUPS] * rows
            low, high = top, bottom
            shift = place - low * row
        else:
            step, first, rows = pool, y, after - y
            begin, end = 0, rows
            y = after
        _run_rows(steps, step, arena, constants, part, begin, end, first, rows, shift)
        turn += 1


@numba.njit(inline="always", **INNER)
def _run_rows(steps, i, arena, constants, part, begin, end, first, rows, shift) -> None:  # noqa: ANN001
    """Items [begin, end) of step `i`, numbered group * `rows` + row - `first`.

    `shift` is added to where a convolution stores features and a pool reads them.
    """
    instruction = address_of(steps, i)
    op, width, mode = steps[i, f.OP], steps[i, f.WIDTH], steps[i, f.MODE]
    group_channels = steps[i, f.GROUP_CHANNELS]
    pixel = steps[i, f.CHANNELS] * ROW_BYTES if op == f.OP_MAX_POOL else group_channels * ROW_BYTES
    scratch = arena + steps[i, f.SCRATCH] + part * steps[i, f.SCRATCH_PART]
    has_epilogue = mode == f.MODE_ROW
    batch = rows
    if op == f.OP_CONV and has_epilogue:
        batch = max(1, SCRATCH_BYTES // (width * pixel))
    elif op == f.OP_MAX_POOL:
        has_epilogue = steps[i, f.QUANT] != f.QUANT_NONE or steps[i, f.SOURCE_KIND] == f.FROM_ACCUMULATORS
        batch = 1
    item = begin
    while item < end:
        group = item // rows
        y = first + item - group * rows
        count = min(batch, end - item, first + rows - y)
        item += count
        source, source_row, source_pixel = scratch, width * pixel, pixel
        if op == f.OP_CONV:
            out, out_row, out_pixel = scratch, source_row, pixel
            if mode == f.MODE_POOL:
                out = arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + group * pixel + shift
                out_row, out_pixel = steps[i, f.FEATURES_ROW], steps[i, f.FEATURES_PIXEL]
            elif mode != f.MODE_ROW:
                group_bytes = group_channels // 4 if mode == f.MODE_FOURS else group_channels // 8
                out = arena + steps[i, f.CODES] + y * steps[i, f.CODES_ROW] + group * group_bytes
                out_row, out_pixel = steps[i, f.CODES_ROW], steps[i, f.CODES_PIXEL]
            taps = arena + steps[i, f.SOURCE] + y * steps[i, f.SOURCE_STEP_Y]
            run_tiles(instruction, constants, group, count, taps, out, out_row, out_pixel)
        elif op == f.OP_MAX_POOL:
            out = scratch if has_epilogue else arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW]
            pool_row(steps, i, arena, y, out, pixel, shift)
        else:
            source_row, source_pixel = steps[i, f.SOURCE_STEP_Y], steps[i, f.SOURCE_STEP_X]
            source = arena + steps[i, f.SOURCE] + y * source_row
        if has_epilogue:
            moved = shift if op == f.OP_CONV else 0
            run_epilogue(instruction, arena, constants, group, y, count, source, source_row, source_pixel, moved)
