"""Steps that no convolution takes into its epilogue: the input as features, fake quantization, mean over pixels, result.

All float32, each operation rounded once, in one fixed order.
"""

from typing import Any

import numba
from numba import types

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import F32X16, bytes_at, floats, intrinsic, share
from bitplane.runtime.kernels.options import INNER

BLOCK = 64
"""Bytes of 16 features."""


@numba.njit(**INNER)
def run_load(steps, i, arena, constants, image, part, parts) -> None:  # noqa: ANN001
    """The input [C, H, W] at address `image` to features [H, W, C]: uint8 as (pixel - mean) / std, or float32 as they are."""
    height, width, channels = steps[i, f.HEIGHT], steps[i, f.WIDTH], steps[i, f.SOURCE_CHANNELS]
    wide, area = steps[i, f.CHANNELS], height * width
    begin, end = share(height, part, parts)
    for y in range(begin, end):
        out = floats(arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW], width * wide)
        if wide > channels:
            out[:] = 0
        if steps[i, f.NORMALIZES] == 0:
            values = floats(image, channels * area)
            for c in range(channels):
                for x in range(width):
                    out[x * wide + c] = values[c * area + y * width + x]
        else:
            pixels = bytes_at(image, channels * area)
            mean, std = floats(constants + steps[i, f.MEAN], channels), floats(constants + steps[i, f.STD], channels)
            for c in range(channels):
                for x in range(width):
                    out[x * wide + c] = (numba.float32(pixels[c * area + y * width + x]) - mean[c]) / std[c]


@intrinsic
def quantize_vector(typingctx: Any, target: Any, source: Any, step: Any, limits: Any) -> Any:
    """16 features at `source`: step * min(max(rint(x / step), low), high) at `target`; addresses, `limits` of low and high."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source, step, limits = args
        width = v.splat(b, v.load(b, step, v.F32, 4), F32X16)
        low, high = (v.splat(b, v.load(b, b.add(limits, v.i64(at)), v.F32, 4), F32X16) for at in (0, 4))
        code = v.rint(b, b.fdiv(v.load(b, source, F32X16, 4), width))
        code = b.select(b.fcmp_ordered(">", code, low), code, low)
        code = b.select(b.fcmp_ordered("<", code, high), code, high)
        v.store(b, b.fmul(code, width), target, 4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def sign_vector(typingctx: Any, target: Any, source: Any, limits: Any) -> Any:
    """16 features at `source`: high at `target` where they are 0 or more, else low."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source, limits = args
        low, high = (v.splat(b, v.load(b, b.add(limits, v.i64(at)), v.F32, 4), F32X16) for at in (0, 4))
        positive = b.fcmp_ordered(">=", v.load(b, source, F32X16, 4), v.constant(F32X16, 0.0))
        v.store(b, b.select(positive, high, low), target, 4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen


@numba.njit(**INNER)
def run_fake_quantize(steps, i, arena, constants, part, parts) -> None:  # noqa: ANN001
    """Features to the values of their codes; or (BY_SIGN) to one of two values by their sign."""
    begin, end = share(steps[i, f.HEIGHT], part, parts)
    for y in range(begin, end):
        for at in range(0, steps[i, f.ROW_BYTES], BLOCK):
            source = arena + steps[i, f.SOURCE] + y * steps[i, f.ROW_BYTES] + at
            target = arena + steps[i, f.FEATURES] + y * steps[i, f.ROW_BYTES] + at
            if steps[i, f.BY_SIGN] != 0:
                sign_vector(target, source, constants + steps[i, f.LOW])
            else:
                quantize_vector(target, source, constants + steps[i, f.STEP], constants + steps[i, f.LOW])


@numba.njit(**INNER)
def run_average_pool(steps, i, arena) -> None:  # noqa: ANN001
    """Features [H, W, C] to their mean [C]."""
    channels, height, width = steps[i, f.CHANNELS], steps[i, f.SOURCE_HEIGHT], steps[i, f.SOURCE_WIDTH]
    mean = floats(arena + steps[i, f.FEATURES], channels)
    for c in range(channels):
        mean[c] = 0
    for y in range(height):
        for x in range(width):
            tap = floats(arena + steps[i, f.SOURCE] + y * steps[i, f.SOURCE_ROW] + x * steps[i, f.SOURCE_STEP_X], channels)
            for c in range(channels):
                mean[c] += tap[c]
    area = numba.float32(height * width)
    for c in range(channels):
        mean[c] /= area


@numba.njit(**INNER)
def run_output(steps, i, arena, logits) -> None:  # noqa: ANN001
    """Features [C] of one pixel to address `logits`."""
    channels = steps[i, f.CHANNELS]
    out, values = floats(logits, channels), floats(arena + steps[i, f.SOURCE], channels)
    for c in range(channels):
        out[c] = values[c]
