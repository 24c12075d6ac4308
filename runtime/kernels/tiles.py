"""The convolution tile: P pixels times C vectors of output channels, accumulated in registers, for every kind of product.

Output channels lie in the lanes and the activation word is broadcast. For bit-planes u_i of a code u = sum_i 2^i u_i,
weight sign bit s and mask bit m (binary: m = 1),

    sum m (1 - 2 s) u  =  sum_i 2^i popcount(m & (u_i ^ s))  -  (2^A - 1) popcount(m & s)

The tile computes the first sum by Horner's rule over the planes, highest first, so that one kernel serves every A; the
second is a constant of the channel and lives in the thresholds or in the epilogue's offset. The sum is unsigned, and
lowering picks lanes in which it cannot overflow. A quaternary layer is a binary one with two sign planes as 32
lanes for 16 channels.

Where lanes have no popcount instruction (AVX2, NEON), bits are counted a byte, and bytes are added to their lane once in a
span of up to 31 words: 1.6 times as fast on Zen 3 as a popcount of every lane. A "dot16" tile sums pairs of byte products in 16
bits likewise, over the span of words in which this layer's weights cannot overflow them.

A "look-up" tile reads bytes of four codes of 1 or 2 bits. For each value of such a byte there is a table of its 16 sums with
four weights of {-1, 1}: the byte chooses the table, and four weight bits of every output channel, a byte each, choose from it,
32 channels an instruction. A ternary weight takes the sum over its positive channels less that over its negative ones. Codes
count from a center, so that sums are small (`bitplane.runtime.plan.spans`): bytes hold them over a span of words.

Where the consumer takes 1- or 2-bit codes of this layer alone, quantizing is comparing the accumulator with 1 or 3 integers, in
registers; otherwise accumulators go as int32 to a scratch row that the float epilogue reads while it is in L1.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import I16, I32, I64, i64, intrinsic
from bitplane.runtime.kernels.products import TileArguments, emit_products, emit_spans, is_narrow_tile
from bitplane.runtime.kernels.shapes import LOOK_UPS, SUMS, TILES, Tile


def _emit_rows(b: Any, tile: Tile, accs: list[list[Any]], args: TileArguments) -> None:
    """Store accumulators as int32 (sums of a float tile as float32) [pixel][channel of the group]."""
    vector = ir.VectorType(I32, tile.lanes)
    if tile.neighbors:
        halves = ir.VectorType(I32, tile.lanes // 2)
        for p in range(0, tile.pixels, 2):
            both = b.bitcast(accs[p // 2][0], halves)
            first, second = b.and_(both, v.constant(halves, 0xFFFF)), b.lshr(both, v.constant(halves, 16))
            for k, acc in enumerate((first, second)):
                v.store(b, acc, b.add(args.out, b.mul(args.out_pixel, i64(p + k))), 4)
        return
    for p in range(tile.pixels):
        for c in range(tile.vectors):
            acc = accs[p][c]
            if tile.bits > I32.width:
                acc = b.trunc(acc, vector)
            elif tile.bits < I32.width:
                acc = b.sext(acc, vector) if tile.kind in LOOK_UPS else b.zext(acc, vector)
            at = b.add(b.add(args.out, b.mul(args.out_pixel, i64(p))), i64(c * tile.lanes * 4))
            v.store(b, acc, at, 4)


def _emit_codes(b: Any, tile: Tile, accs: list[list[Any]], args: TileArguments, levels: int) -> None:
    """Compare with 1 or 3 thresholds, store one or two planes of `group` bits a pixel."""
    vector = ir.VectorType(ir.IntType(tile.bits), tile.lanes)
    size, word = v.vector_bytes(vector), ir.IntType(tile.lanes * tile.vectors)
    if tile.neighbors:  # one pixel's channels after the other's
        order = ir.Constant(ir.VectorType(I32, tile.lanes), [*range(0, tile.lanes, 2), *range(1, tile.lanes, 2)])
        accs = [[b.shuffle_vector(acc, ir.Constant(vector, ir.Undefined), order) for acc in row] for row in accs]
    limits = [
        [v.load(b, b.add(args.limits, i64((j * tile.vectors + c) * size)), vector, size) for c in range(tile.vectors)]
        for j in range(levels)
    ]

    def gather(masks: list[Any]) -> Any:
        """The masks of all vectors as one integer."""
        out = None
        for c, mask in enumerate(masks):
            bits = b.bitcast(mask, ir.IntType(tile.lanes))
            if tile.vectors > 1:
                bits = b.shl(b.zext(bits, word), ir.Constant(word, c * tile.lanes))
            out = bits if out is None else b.or_(out, bits)
        return out

    def store(plane: Any, p: int, out: Any) -> None:
        """The bits of one vector: a pixel, or two."""
        for k in range(tile.shared):
            bits = (
                b.trunc(b.lshr(plane, ir.Constant(word, k * tile.group)), ir.IntType(tile.group)) if tile.neighbors else plane
            )
            v.store(b, bits, b.add(out, b.mul(args.out_pixel, i64(p * tile.shared + k))), 1)

    for p, row in enumerate(accs):
        high = [b.icmp_unsigned(">=", acc, limit) for acc, limit in zip(row, limits[levels // 2], strict=True)]
        if levels == 1:
            store(gather(high), p, args.out)
            continue
        # Bit 1 of a code is its middle threshold; bit 0 whether then the upper or the lower one is reached.
        either = [b.select(h, upper, lower) for h, upper, lower in zip(high, limits[2], limits[0], strict=True)]
        low = [b.icmp_unsigned(">=", acc, limit) for acc, limit in zip(row, either, strict=True)]
        store(gather(low), p, args.out)
        store(gather(high), p, b.add(args.out, args.out_plane))


def _emit_fours(b: Any, tile: Tile, accs: list[list[Any]], args: TileArguments) -> None:
    """Compare with 3 thresholds, store bytes of four codes."""
    vector = ir.VectorType(I16, tile.lanes)
    size = v.vector_bytes(vector)
    for c in range(tile.vectors):
        limits = [v.load(b, b.add(args.limits, i64((j * tile.vectors + c) * size)), vector, size) for j in range(3)]
        for p in range(tile.pixels):
            at = b.add(b.add(args.out, b.mul(args.out_pixel, i64(p))), i64(c * tile.lanes // 4))
            v.store(b, v.pack_fours(b, [b.icmp_signed(">=", accs[p][c], limit) for limit in limits], tile.bits), at, 1)


def _load_arguments(b: Any, values: list[Any]) -> TileArguments:
    """The values of the first of some rows of a channel group, from the columns of an instruction."""
    instruction, constants, group, _, source, out, _, out_pixel = values

    def column(index: int) -> Any:
        return v.column(b, instruction, index)

    return TileArguments(
        source=source,
        plane=column(f.SOURCE_PLANE),
        planes=column(f.SOURCE_PLANES),
        row=column(f.SOURCE_ROW),
        rows=column(f.KERNEL_ROWS),
        step_x=column(f.SOURCE_STEP_X),
        words=column(f.KERNEL_WORDS),
        span=column(f.SPAN),
        table=b.add(constants, column(f.TABLE)),
        weights=b.add(b.add(constants, column(f.WEIGHTS)), b.mul(group, column(f.WEIGHTS_GROUP))),
        mode=column(f.MODE),
        limits=b.add(b.add(constants, column(f.LIMITS)), b.mul(group, column(f.LIMITS_GROUP))),
        out=out,
        out_pixel=out_pixel,
        out_plane=column(f.CODES_PLANE),
    )


def _emit_tiles(tile: Tile, b: Any, values: list[Any]) -> None:
    """Output rows of one group, tile by tile; the last tile of a row overlaps the one before it."""
    instruction, _, _, height, _, _, out_row, _ = values
    whole = _load_arguments(b, values)
    width, source_row = v.column(b, instruction, f.WIDTH), v.column(b, instruction, f.SOURCE_STEP_Y)
    last = b.sub(width, i64(tile.pixels))
    count = b.sdiv(b.add(width, i64(tile.pixels - 1)), i64(tile.pixels))
    spans = emit_spans(b, whole) if is_narrow_tile(tile) else None
    in_rows = b.or_(b.icmp_signed("==", whole.mode, i64(f.MODE_ROW)), b.icmp_signed("==", whole.mode, i64(f.MODE_POOL)))
    with cgutils.for_range(b, height, intp=I64) as rows, cgutils.for_range(b, count, intp=I64) as loop:
        row = replace(
            whole,
            source=b.add(whole.source, b.mul(rows.index, source_row)),
            out=b.add(whole.out, b.mul(rows.index, out_row)),
        )
        x = b.mul(loop.index, i64(tile.pixels))
        x = b.select(b.icmp_signed("<", x, last), x, last)
        step = i64(tile.word) if tile.taps else row.step_x
        args = replace(row, source=b.add(row.source, b.mul(x, step)), out=b.add(row.out, b.mul(x, row.out_pixel)))
        accs = emit_products(b, tile, args, spans)
        if tile.kind in SUMS:
            _emit_rows(b, tile, accs, args)
        else:
            with b.if_else(in_rows) as (to_rows, to_codes):
                with to_rows:
                    _emit_rows(b, tile, accs, args)
                with to_codes:
                    _emit_thresholds(b, tile, accs, args)


def _emit_thresholds(b: Any, tile: Tile, accs: list[list[Any]], args: TileArguments) -> None:
    if tile.kind in LOOK_UPS:
        _emit_fours(b, tile, accs, args)
        return
    with b.if_else(b.icmp_signed("==", args.mode, i64(f.MODE_ONE))) as (one, two):
        with one:
            _emit_codes(b, tile, accs, args, 1)
        with two:
            _emit_codes(b, tile, accs, args, 3)


@intrinsic
def run_tiles(
    typingctx: Any, instruction: Any, constants: Any, group: Any, height: Any, source: Any, out: Any, out_row: Any,
    out_pixel: Any,
) -> Any:  # fmt: skip
    """`height` output rows of a channel group of the convolution at an address, from `source` to `out`, by its tile."""

    def codegen(context: Any, b: Any, sig: Any, values: Any) -> Any:
        done = b.append_basic_block("done")
        switch = b.switch(v.column(b, values[0], f.TILE), done)
        for number, tile in enumerate(TILES):
            block = b.append_basic_block("tile")
            switch.add_case(i64(number), block)
            b.position_at_end(block)
            v.emit_call(b, f"bitplane_tile_{number}", list(values), partial(_emit_tiles, tile))
            b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), codegen
