"""The float epilogue: one row of accumulators or features to features and codes.

    f = float32(acc + offset) * scale + bias      multiply then add, each rounded once: no fused multiply-add
    f = f + residual
    f = relu(f), or f * slope where f is not positive
    codes: 1 and 2 bits by comparing f with exact float thresholds, 4 and 8 bits by min(max(rint(f / step), 0), 2^A - 1);
           stored as the convolutions that read them want: bit-planes, bytes, or four codes of 1 or 2 bits a byte

Channels are handled 16 at a time, all planes of a code packed by compare masks. It equals ONNX's operators bit for bit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplane.format.levels import QUATERNARY
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import F32, F32X16, I16, I32, I32X16, I64, i64, intrinsic
from bitplane.runtime.kernels.options import INNER
from bitplane.runtime.kernels.target import HAS_AVX512

BLOCK = 64
"""Bytes of 16 accumulators or features."""


def _emit_value(b: Any, kind: int, source: Any, offset: Any, scale: Any, bias: Any) -> Any:
    """16 features of one pixel, before the residual."""
    if kind == f.FROM_FEATURES:
        return v.load(b, source, F32X16, 4)
    if kind == f.FROM_SUMS:
        return b.fadd(v.load(b, source, F32X16, 4), bias)
    acc = v.load(b, source, I32X16, 4)
    if kind == f.FROM_PLANE_PAIRS:
        second = v.load(b, b.add(source, i64(BLOCK)), I32X16, 4)
        one, two = QUATERNARY.sign_coefficients
        twice = b.add(b.mul(acc, v.constant(I32X16, one)), b.mul(second, v.constant(I32X16, two)))
        acc = b.ashr(b.add(twice, offset), v.constant(I32X16, 1))
    else:
        acc = b.add(acc, offset)
    return b.fadd(b.fmul(b.sitofp(acc, F32X16), scale), bias)


def _emit_quantize(
    b: Any, kind: int, value: Any, levels: list[Any], step: Any, top: Any, planes: Any, out: Any, plane: Any
) -> None:
    if kind == f.QUANT_ONE:
        v.store(b, b.bitcast(b.fcmp_ordered(">=", value, levels[0]), I16), out, 1)
    elif kind == f.QUANT_TWO:
        high = b.fcmp_ordered(">=", value, levels[1])  # bit 1; bit 0 is whether the upper or the lower threshold is reached
        low = b.fcmp_ordered(">=", value, b.select(high, levels[2], levels[0]))
        v.store(b, b.bitcast(low, I16), out, 1)
        v.store(b, b.bitcast(high, I16), b.add(out, plane), 1)
    elif kind == f.QUANT_FOURS:
        v.store(b, v.pack_fours(b, [b.fcmp_ordered(">=", value, level) for level in levels], 32), out, 1)
    elif kind in (f.QUANT_DIVIDE, f.QUANT_BYTES):
        code = v.rint(b, b.fdiv(value, step))
        zero = v.constant(F32X16, 0.0)
        code = b.select(b.fcmp_ordered(">", code, zero), code, zero)
        code = b.fptosi(b.select(b.fcmp_ordered("<", code, top), code, top), I32X16)
        if kind == f.QUANT_BYTES:
            v.store(b, b.trunc(code, ir.VectorType(v.I8, 16)), out, 1)
            return
        _emit_planes(b, code, planes, out, plane)


def _emit_planes(b: Any, code: Any, planes: Any, out: Any, plane: Any) -> None:
    """Store 16 codes of 4 bits or more, one plane after the other."""
    small = code if HAS_AVX512 else b.trunc(code, ir.VectorType(v.I8, 16))  # compare masks of lanes, or sign bits of bytes
    zero = ir.Constant(small.type, None)
    for bit in range(4):
        if HAS_AVX512:
            mask = b.icmp_signed("!=", b.and_(small, v.constant(small.type, 1 << bit)), zero)
        else:
            mask = b.icmp_signed("<", b.shl(small, v.constant(small.type, 7 - bit)), zero)
        v.store(b, b.bitcast(mask, I16), out, 1)
        out = b.add(out, plane)
    with cgutils.for_range(b, b.sub(planes, i64(4)), intp=I64) as bit:
        shifted = b.lshr(code, v.splat(b, b.trunc(b.add(bit.index, i64(4)), I32), I32X16))
        mask = b.trunc(shifted, ir.VectorType(v.I1, 16))
        v.store(b, b.bitcast(mask, I16), b.add(out, b.mul(plane, bit.index)), 1)


@dataclass(frozen=True)
class RowArguments:
    """LLVM values of some rows; addresses are of the first one's pixel 0 and the group's first channel. See `fields`."""

    rows: Any
    pixels: Any
    vectors: Any
    source: Any
    source_row: Any
    source_pixel: Any
    offset: Any
    scale: Any
    bias: Any
    residual: Any
    residual_row: Any
    residual_pixel: Any
    relu: Any
    prelu: Any
    slope: Any
    store: Any
    features: Any
    features_row: Any
    features_pixel: Any
    levels: Any
    levels_stride: Any
    step: Any
    planes: Any
    codes: Any
    codes_row: Any
    codes_pixel: Any
    codes_plane: Any


def _emit_row(b: Any, source_kind: int, quant_kind: int, a: RowArguments) -> None:
    lowest = b.select(b.icmp_signed("!=", a.relu, i64(0)), ir.Constant(F32, 0.0), ir.Constant(F32, -math.inf))
    lowest = v.splat(b, lowest, F32X16)
    keep = b.icmp_signed("!=", a.store, i64(0))
    count = {f.QUANT_ONE: 1, f.QUANT_TWO: 3, f.QUANT_FOURS: 3}.get(quant_kind, 0)
    step = top = None
    if quant_kind in (f.QUANT_DIVIDE, f.QUANT_BYTES):
        step = v.splat(b, v.load(b, a.step, F32, 4), F32X16)
        top = v.splat(b, b.sitofp(b.sub(b.shl(i64(1), a.planes), i64(1)), F32), F32X16)
    width = 2 * BLOCK if source_kind == f.FROM_PLANE_PAIRS else BLOCK
    with cgutils.for_range(b, a.vectors, intp=I64) as block:
        at = b.mul(block.index, i64(BLOCK))
        constants: list[Any] = [None] * 3
        if source_kind == f.FROM_SUMS:
            constants[2] = v.load(b, b.add(a.bias, at), F32X16, 4)
        elif source_kind != f.FROM_FEATURES:
            kinds = ((a.offset, I32X16), (a.scale, F32X16), (a.bias, F32X16))
            constants = [v.load(b, b.add(address, at), kind, 4) for address, kind in kinds]
        levels = [v.load(b, b.add(b.add(a.levels, at), b.mul(a.levels_stride, i64(j))), F32X16, 4) for j in range(count)]
        size = {f.QUANT_BYTES: 16, f.QUANT_FOURS: 4}.get(quant_kind, 2)  # bytes of 16 codes in one plane

        def pixel(slope: Any, y: Any, x: Any) -> None:
            def place(start: Any, offset: Any, row: Any, step: Any) -> Any:
                return b.add(b.add(b.add(start, offset), b.mul(y, row)), b.mul(x, step))

            source = place(a.source, b.mul(block.index, i64(width)), a.source_row, a.source_pixel)
            value = _emit_value(b, source_kind, source, *constants)
            value = b.fadd(value, v.load(b, place(a.residual, at, a.residual_row, a.residual_pixel), F32X16, 4))
            value = b.select(b.fcmp_ordered(">", lowest, value), lowest, value)  # in this order a NaN stays one
            if slope is not None:
                value = b.select(b.fcmp_ordered(">", value, v.constant(F32X16, 0.0)), value, b.fmul(value, slope))
            with b.if_then(keep):
                v.store(b, value, place(a.features, at, a.features_row, a.features_pixel), 4)
            out = place(a.codes, b.mul(block.index, i64(size)), a.codes_row, a.codes_pixel)
            _emit_quantize(b, quant_kind, value, levels, step, top, a.planes, out, a.codes_plane)

        # Two loops: a branch in one would cost a small network of 1-bit activations 8 % of its time (docs/decisions/0011).
        with b.if_else(b.icmp_signed("!=", a.prelu, i64(0))) as (sloped, straight):
            for where in (sloped, straight):
                with where:
                    slope = v.load(b, b.add(a.slope, at), F32X16, 4) if where is sloped else None
                    with cgutils.for_range(b, a.rows, intp=I64) as rows, cgutils.for_range(b, a.pixels, intp=I64) as pixels:
                        pixel(slope, rows.index, pixels.index)


@intrinsic
def _row(
    typingctx: Any, case: Any, rows: Any, pixels: Any, vectors: Any, source: Any, source_row: Any, source_pixel: Any,
    offset: Any, scale: Any, bias: Any, residual: Any, residual_row: Any, residual_pixel: Any, relu: Any, prelu: Any,
    slope: Any, store: Any, features: Any, features_row: Any, features_pixel: Any, levels: Any, levels_stride: Any, step: Any,
    planes: Any, codes: Any, codes_row: Any, codes_pixel: Any, codes_plane: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        done = b.append_basic_block("done")
        switch = b.switch(args[0], done)
        for source_kind in f.SOURCES:
            for quant_kind in f.QUANTS:
                block = b.append_basic_block("row")
                switch.add_case(i64(source_kind * len(f.QUANTS) + quant_kind), block)
                b.position_at_end(block)
                emit = partial(_emit_row_function, source_kind, quant_kind)
                v.emit_call(b, f"bitplane_epilogue_{source_kind}_{quant_kind}", list(args[1:]), emit, compact=True)
                b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 28), codegen


def _emit_row_function(source_kind: int, quant_kind: int, b: Any, values: list[Any]) -> None:
    _emit_row(b, source_kind, quant_kind, RowArguments(*values))


QUANTS = len(f.QUANTS)


@numba.njit(**INNER)
def run_epilogue(steps, i, arena, constants, group, y, rows, source, source_row, source_pixel, shift) -> None:  # noqa: ANN001
    """Finish `rows` rows from `y` of channel group `group` of step `i`; `source` is the address of accumulators or features.

    `shift` is added to the address of features that are stored.
    """
    at = group * steps[i, f.VECTORS] * BLOCK
    code_bytes = 2
    if steps[i, f.QUANT] == f.QUANT_BYTES:
        code_bytes = 16
    elif steps[i, f.QUANT] == f.QUANT_FOURS:
        code_bytes = 4
    _row(
        steps[i, f.SOURCE_KIND] * QUANTS + steps[i, f.QUANT],
        rows,
        steps[i, f.WIDTH],
        steps[i, f.VECTORS],
        source,
        source_row,
        source_pixel,
        constants + steps[i, f.OFFSET] + at,
        constants + steps[i, f.SCALE] + at,
        constants + steps[i, f.BIAS] + at,
        arena + steps[i, f.RESIDUAL] + y * steps[i, f.RESIDUAL_ROW] + at,
        steps[i, f.RESIDUAL_ROW],
        steps[i, f.RESIDUAL_PIXEL],
        steps[i, f.RELU],
        steps[i, f.PRELU],
        constants + steps[i, f.SLOPE] + at,
        steps[i, f.STORE],
        arena + steps[i, f.FEATURES] + y * steps[i, f.FEATURES_ROW] + at + shift,
        steps[i, f.FEATURES_ROW],
        steps[i, f.FEATURES_PIXEL],
        constants + steps[i, f.LEVELS] + at,
        steps[i, f.LEVELS_STRIDE],
        constants + steps[i, f.STEP],
        steps[i, f.CODES_PLANES],
        arena + steps[i, f.CODES] + y * steps[i, f.CODES_ROW] + group * steps[i, f.VECTORS] * code_bytes,
        steps[i, f.CODES_ROW],
        steps[i, f.CODES_PIXEL],
        steps[i, f.CODES_PLANE],
    )
