"""The classifier: mean over the pixels, then a matrix-vector product, float32 in one fixed order.

Weights lie as [block of classes][channel][class of the block]: a block's logits stay in registers while its weights stream
past, int8 where the file has int8, since what a product of one image costs is reading its weights. A weight is
float32(integer) * unit, as the file says, and a logit adds bias and products in the order of the channels.
"""

from functools import partial
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import F32, F32X16, I8, I64, floats, i64, intrinsic, share
from bitplane.runtime.kernels.options import INNER

LANES = 16
BLOCKS = (1, 4)
"""Vectors of 16 classes that a block can have."""


def _emit_block(integers: bool, vectors: int, b: Any, values: list[Any]) -> None:
    channels, mean, weights, unit, bias, out = values
    kind, size = (ir.VectorType(I8, LANES), LANES) if integers else (F32X16, 4 * LANES)
    slots = [cgutils.alloca_once(b, F32X16) for _ in range(vectors)]
    for k, slot in enumerate(slots):
        b.store(v.load(b, b.add(bias, i64(64 * k)), F32X16, 4), slot)
    units = [v.load(b, b.add(unit, i64(64 * k)), F32X16, 4) for k in range(vectors)] if integers else []
    with cgutils.for_range(b, channels, intp=I64) as loop:
        value = v.splat(b, v.load(b, b.add(mean, b.mul(loop.index, i64(4))), F32, 4), F32X16)
        row = b.add(weights, b.mul(loop.index, i64(vectors * size)))
        for k, slot in enumerate(slots):
            weight = v.load(b, b.add(row, i64(k * size)), kind, 1)
            if integers:
                weight = b.fmul(b.sitofp(weight, F32X16), units[k])
            b.store(b.fadd(b.load(slot), b.fmul(value, weight)), slot)
    for k, slot in enumerate(slots):
        v.store(b, b.load(slot), b.add(out, i64(64 * k)), 4)


@intrinsic
def _block(
    typingctx: Any, case: Any, channels: Any, mean: Any, weights: Any, unit: Any, bias: Any, out: Any
) -> Any:  # fmt: skip
    """One block's logits of `channels` means; the others are addresses."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        done = b.append_basic_block("done")
        switch = b.switch(args[0], done)
        for integers in (False, True):
            for vectors in BLOCKS:
                block = b.append_basic_block("block")
                switch.add_case(i64(vectors * 2 + integers), block)
                b.position_at_end(block)
                emit = partial(_emit_block, integers, vectors)
                v.emit_call(b, f"bitplane_dense_{int(integers)}_{vectors}", list(args[1:]), emit)
                b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), codegen


@numba.njit(**INNER)
def run_classifier(steps, i, arena, constants, logits, part, parts) -> None:  # noqa: ANN001
    """Features [H, W, C] to the `CLASSES` logits at address `logits`, in `GROUPS` blocks of `VECTORS` vectors of classes.

    Every thread computes all means: that is less than waiting for one of them.
    """
    channels, classes, size = steps[i, f.CHANNELS], steps[i, f.CLASSES], steps[i, f.VECTORS] * LANES
    scratch = arena + steps[i, f.SCRATCH] + part * steps[i, f.SCRATCH_PART]
    mean, block = floats(scratch, channels), floats(scratch + channels * 4, size)
    for c in range(channels):
        mean[c] = 0
    for y in range(steps[i, f.SOURCE_HEIGHT]):
        for x in range(steps[i, f.SOURCE_WIDTH]):
            tap = floats(arena + steps[i, f.SOURCE] + y * steps[i, f.SOURCE_ROW] + x * steps[i, f.SOURCE_STEP_X], channels)
            for c in range(channels):
                mean[c] += tap[c]
    area = numba.float32(steps[i, f.SOURCE_HEIGHT] * steps[i, f.SOURCE_WIDTH])
    for c in range(channels):
        mean[c] = mean[c] / area
    out = floats(logits, classes)
    begin, end = share(steps[i, f.GROUPS], part, parts)
    for group in range(begin, end):
        at = group * size
        _block(
            steps[i, f.VECTORS] * 2 + steps[i, f.IS_INT8],
            channels,
            scratch,
            constants + steps[i, f.WEIGHTS] + group * steps[i, f.WEIGHTS_GROUP],
            constants + steps[i, f.UNIT] + at * 4,
            constants + steps[i, f.BIAS] + at * 4,
            scratch + channels * 4,
        )
        for j in range(min(size, classes - at)):
            out[at + j] = block[j]
