"""The float epilogue: one row of accumulators or features to features and codes.

    f = float32(acc + offset) * scale + bias      multiply then add, each rounded once: no fused multiply-add
    f = f + residual
    f = relu(f), or f * slope where f is not positive, or min(max(f, low), high)
    codes: 1 and 2 bits by comparing f with exact float thresholds, 4 and 8 bits by min(max(rint(f / step), 0), 2^A - 1);
           stored as the convolutions that read them want: bit-planes, bytes, or four codes of 1 or 2 bits a byte

Channels are handled 16 at a time, all planes of a code packed by compare masks. It equals ONNX's operators bit for bit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import F32, F32X16, I16, I32, I32X16, I64, i64, intrinsic
from bitplane.runtime.kernels.target import HAS_AVX512

BLOCK = 64
"""Bytes of 16 accumulators or features."""


def _emit_value(b: Any, kind: int, source: Any, factors: list[Any], signs: list[Any]) -> Any:
    """16 features of one pixel, before the residual.

    Args:
        b: builder.
        kind: what `source` is.
        source: its address.
        factors: offset, scale and bias, where the kind has them.
        signs: coefficients of plane pairs, each in every lane.
    """
    offset, scale, bias = factors
    if kind == f.FROM_FEATURES:
        return v.load(b, source, F32X16, 4)
    if kind == f.FROM_SUMS:
        return b.fadd(v.load(b, source, F32X16, 4), bias)
    acc = v.load(b, source, I32X16, 4)
    if kind == f.FROM_PLANE_PAIRS:
        second = v.load(b, b.add(source, i64(BLOCK)), I32X16, 4)
        one, two = signs
        twice = b.add(b.mul(acc, one), b.mul(second, two))
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
class Place:
    """Where the rows of an epilogue are: of the first one's pixel 0 and the group's first channel, and the strides."""

    start: Any
    row: Any
    pixel: Any

    def at(self, b: Any, offset: Any, y: Any, x: Any) -> Any:
        """Address of pixel (y, x), `offset` bytes on."""
        return b.add(b.add(b.add(self.start, offset), b.mul(y, self.row)), b.mul(x, self.pixel))


@dataclass(frozen=True)
class RowArguments:
    """LLVM values of the epilogue of one instruction (`fields`) for some rows of one channel group."""

    instruction: Any
    constants: Any
    at: Any  # bytes of the group's first channel behind the first of all, in features and factors
    rows: Any
    source: Place
    residual: Place
    features: Place
    codes: Place

    def column(self, b: Any, index: int) -> Any:
        """A column of the instruction."""
        return v.column(b, self.instruction, index)

    def factors(self, b: Any, index: int) -> Any:
        """Address of the constants of the group's channels that a column points to."""
        return b.add(b.add(self.constants, self.column(b, index)), self.at)


CODE_BYTES = {f.QUANT_BYTES: 16, f.QUANT_FOURS: 4}
"""Bytes of 16 codes in one plane; 2 where they are bits."""


def _load_arguments(b: Any, quant_kind: int, values: list[Any]) -> RowArguments:
    instruction, arena, constants, group, y, rows, source, source_row, source_pixel, shift = values

    def column(index: int) -> Any:
        return v.column(b, instruction, index)

    vectors = b.mul(group, column(f.VECTORS))
    at = b.mul(vectors, i64(BLOCK))

    def place(start: int, row: int, pixel: int, offset: Any) -> Place:
        first = b.add(b.add(arena, column(start)), b.add(b.mul(y, column(row)), offset))
        return Place(first, column(row), column(pixel))

    codes_at = b.mul(vectors, i64(CODE_BYTES.get(quant_kind, 2)))
    return RowArguments(
        instruction,
        constants,
        at,
        rows,
        Place(source, source_row, source_pixel),
        place(f.RESIDUAL, f.RESIDUAL_ROW, f.RESIDUAL_PIXEL, at),
        place(f.FEATURES, f.FEATURES_ROW, f.FEATURES_PIXEL, b.add(at, shift)),
        place(f.CODES, f.CODES_ROW, f.CODES_PIXEL, codes_at),
    )


def _emit_row(b: Any, source_kind: int, quant_kind: int, a: RowArguments) -> None:
    lowest = b.select(b.icmp_signed("!=", a.column(b, f.RELU), i64(0)), ir.Constant(F32, 0.0), ir.Constant(F32, -math.inf))
    lowest = v.splat(b, lowest, F32X16)
    keep = b.icmp_signed("!=", a.column(b, f.STORE), i64(0))
    is_sloped, slopes = b.icmp_signed("!=", a.column(b, f.PRELU), i64(0)), a.factors(b, f.SLOPE)
    is_clipped, limits = b.icmp_signed("!=", a.column(b, f.CLIP), i64(0)), b.add(a.constants, a.column(b, f.CLIP_LIMITS))
    count = {f.QUANT_ONE: 1, f.QUANT_TWO: 3, f.QUANT_FOURS: 3}.get(quant_kind, 0)
    signs: list[Any] = []
    if source_kind == f.FROM_PLANE_PAIRS:
        signs = [v.splat(b, b.trunc(a.column(b, index), I32), I32X16) for index in (f.SIGN1, f.SIGN2)]
    planes, plane = a.column(b, f.CODES_PLANES), a.column(b, f.CODES_PLANE)
    step = top = None
    if quant_kind in (f.QUANT_DIVIDE, f.QUANT_BYTES):
        step = v.splat(b, v.load(b, b.add(a.constants, a.column(b, f.STEP)), F32, 4), F32X16)
        top = v.splat(b, b.sitofp(b.sub(b.shl(i64(1), planes), i64(1)), F32), F32X16)
    width = 2 * BLOCK if source_kind == f.FROM_PLANE_PAIRS else BLOCK
    kinds: tuple[tuple[int, Any], ...] = ((f.OFFSET, I32X16), (f.SCALE, F32X16), (f.BIAS, F32X16))
    addresses = [(a.factors(b, index), kind) for index, kind in kinds]
    levels_at, levels_stride = a.factors(b, f.LEVELS), a.column(b, f.LEVELS_STRIDE)
    pixel_count = a.column(b, f.WIDTH)
    with cgutils.for_range(b, a.column(b, f.VECTORS), intp=I64) as block:
        at = b.mul(block.index, i64(BLOCK))
        constants: list[Any] = [None] * 3
        if source_kind == f.FROM_SUMS:
            constants[2] = v.load(b, b.add(addresses[2][0], at), F32X16, 4)
        elif source_kind != f.FROM_FEATURES:
            constants = [v.load(b, b.add(address, at), kind, 4) for address, kind in addresses]
        levels = [v.load(b, b.add(b.add(levels_at, at), b.mul(levels_stride, i64(j))), F32X16, 4) for j in range(count)]

        def pixel(slope: Any, clip: Any, y: Any, x: Any) -> None:
            source = a.source.at(b, b.mul(block.index, i64(width)), y, x)
            value = _emit_value(b, source_kind, source, constants, signs)
            value = b.fadd(value, v.load(b, a.residual.at(b, at, y, x), F32X16, 4))
            value = b.select(b.fcmp_ordered(">", lowest, value), lowest, value)  # in this order a NaN stays one
            if slope is not None:
                value = b.select(b.fcmp_ordered(">", value, v.constant(F32X16, 0.0)), value, b.fmul(value, slope))
            for sign, limit in clip:
                value = b.select(b.fcmp_ordered(sign, limit, value), limit, value)
            with b.if_then(keep):
                v.store(b, value, a.features.at(b, at, y, x), 4)
            out = a.codes.at(b, b.mul(block.index, i64(CODE_BYTES.get(quant_kind, 2))), y, x)
            _emit_quantize(b, quant_kind, value, levels, step, top, planes, out, plane)

        def loop(slope: Any = None, clip: Any = ()) -> None:
            with cgutils.for_range(b, a.rows, intp=I64) as rows, cgutils.for_range(b, pixel_count, intp=I64) as pixels:
                pixel(slope, clip, rows.index, pixels.index)

        # Three loops: a branch in one would cost a small network of 1-bit activations 8 % of its time (docs/decisions/0011).
        with b.if_else(is_sloped) as (sloped, others):
            with sloped:
                loop(slope=v.load(b, b.add(slopes, at), F32X16, 4))
            with others, b.if_else(is_clipped) as (clipped, straight):
                with clipped:
                    low, high = (v.splat(b, v.load(b, b.add(limits, i64(n)), F32, 4), F32X16) for n in (0, 4))
                    loop(clip=((">", low), ("<", high)))
                with straight:
                    loop()


@intrinsic
def run_epilogue(
    typingctx: Any, instruction: Any, arena: Any, constants: Any, group: Any, y: Any, rows: Any,
    source: Any, source_row: Any, source_pixel: Any, shift: Any,
) -> Any:  # fmt: skip
    """Finish `rows` rows from `y` of channel group `group` of the instruction at an address.

    `source` is the address of accumulators or features, `shift` is added to the address of features that are stored.
    """

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        done = b.append_basic_block("done")
        kinds = b.mul(v.column(b, args[0], f.SOURCE_KIND), i64(len(f.QUANTS)))
        switch = b.switch(b.add(kinds, v.column(b, args[0], f.QUANT)), done)
        for source_kind in f.SOURCES:
            for quant_kind in f.QUANTS:
                block = b.append_basic_block("row")
                switch.add_case(i64(source_kind * len(f.QUANTS) + quant_kind), block)
                b.position_at_end(block)
                emit = partial(_emit_row_function, source_kind, quant_kind)
                v.emit_call(b, f"bitplane_epilogue_{source_kind}_{quant_kind}", list(args), emit, compact=True)
                b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 10), codegen


def _emit_row_function(source_kind: int, quant_kind: int, b: Any, values: list[Any]) -> None:
    _emit_row(b, source_kind, quant_kind, _load_arguments(b, quant_kind, values))
