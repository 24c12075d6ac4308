"""The products of a tile: P pixels times C vectors of output channels, accumulated in registers."""

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import I8, I16, I64, i64
from bitplane.runtime.kernels.shapes import LOOK_UPS, SUMS, Tile
from bitplane.runtime.kernels.target import HAS_POPCOUNT


@dataclass(frozen=True)
class TileArguments:
    """LLVM values a tile takes at run time; `fields` has their meaning."""

    source: Any
    plane: Any
    planes: Any
    row: Any
    rows: Any
    step_x: Any
    words: Any
    span: Any
    table: Any
    weights: Any
    mode: Any
    limits: Any
    out: Any
    out_pixel: Any
    out_plane: Any


def _clear(b: Any, slots: list[list[Any]]) -> None:
    for slot in (s for row in slots for s in row):
        b.store(v.constant(slot.type.pointee, 0), slot)


def _add_narrow(b: Any, slots: list[list[Any]], narrow: list[list[Any]], tile: Tile) -> None:
    """Add each lane's narrow sums to the lane."""
    for row, sums in zip(slots, narrow, strict=False):
        for slot, part in zip(row, sums, strict=True):
            value = b.load(part)
            if tile.kind in LOOK_UPS:
                wide = b.sext(value, slot.type.pointee)
            else:
                wide = v.sum_pairs(b, value) if tile.kind == "dot16" else v.sum_bytes(b, value, tile.bits)
            b.store(b.add(b.load(slot), wide), slot)


def _counts_bytes(tile: Tile) -> bool:
    return tile.kind in ("binary", "ternary") and not HAS_POPCOUNT


def is_narrow_tile(tile: Tile) -> bool:
    """Whether sums start in lanes that hold those of a span of words only."""
    return _counts_bytes(tile) or tile.kind in LOOK_UPS or tile.kind == "dot16"


def emit_spans(b: Any, args: TileArguments) -> Any:
    """Kernel rows, and words of one, that narrow lanes take at a time, and how many times.

    As many whole rows, or else as many words of one, as narrow lanes hold. Emit it outside of loops: LLVM moves no division.
    """
    rows = b.sdiv(args.span, args.words)
    rows = b.select(b.icmp_signed("<", rows, i64(1)), i64(1), rows)
    return (rows, v.ceil_div(b, args.rows, rows)), (args.span, v.ceil_div(b, args.words, args.span))


def emit_products(b: Any, tile: Tile, args: TileArguments, spans: Any) -> list[list[Any]]:
    """Emit the accumulation loops; returns the P x C accumulator vectors.

    Args:
        b: builder.
        tile: its shape.
        args: what it reads.
        spans: from `emit_spans`, for tiles that sum in narrow lanes first.
    """
    element = v.F32 if tile.kind == "float" else ir.IntType(tile.bits)
    vector = ir.VectorType(element, tile.lanes)
    loaded = ir.VectorType(I8, tile.lanes) if tile.kind in LOOK_UPS else vector  # of weights
    size = v.vector_bytes(loaded)
    slots = [[cgutils.alloca_once(b, vector) for _ in range(tile.vectors)] for _ in range(tile.pixels // tile.shared)]
    part = ir.VectorType(I16, size // 2) if tile.kind == "dot16" else ir.VectorType(I8, size)
    narrow = [[cgutils.alloca_once(b, part) for _ in row] for row in slots] if is_narrow_tile(tile) else []
    _clear(b, slots)
    sums = _Sums(b, tile, args, spans, slots, narrow, vector, loaded)
    if tile.kind in SUMS or tile.kind in LOOK_UPS:
        sums.add_plane(args.source)
    else:
        with cgutils.for_range(b, args.planes, intp=I64) as planes:
            for row in slots:
                for slot in row:
                    b.store(b.shl(b.load(slot), v.constant(vector, 1)), slot)
            plane = b.sub(b.sub(args.planes, i64(1)), planes.index)
            sums.add_plane(b.add(args.source, b.mul(plane, args.plane)))
    return [[b.load(slot) for slot in row] for row in slots]


@dataclass(frozen=True)
class _Sums:
    """The accumulators of a tile while loops are emitted around them.

    Attributes:
        b: builder.
        tile: its shape.
        args: what it reads.
        spans: of narrow lanes.
        slots: accumulators, P / shared x C.
        narrow: sums in narrow lanes, likewise, or none.
        vector: type of an accumulator.
        loaded: type of a vector of weights.
    """

    b: Any
    tile: Tile
    args: TileArguments
    spans: Any
    slots: list[list[Any]]
    narrow: list[list[Any]]
    vector: Any
    loaded: Any

    @property
    def stride(self) -> int:
        """Bytes of the weights of one word."""
        return self.tile.planes * self.tile.vectors * v.vector_bytes(self.loaded)

    def add_plane(self, source: Any) -> None:
        """All words of one plane of codes, or of the values themselves."""
        b, tile = self.b, self.tile
        if tile.taps:
            _clear(b, self.narrow)
            for ky in range(tile.taps):
                for k in range(tile.taps):
                    at = b.add(b.add(source, b.mul(self.args.row, i64(ky))), i64(k * tile.word))
                    weights = b.add(self.args.weights, i64((ky * tile.taps + k) * self.stride))
                    self.add_word(at, weights, i64(tile.word))
            _add_narrow(b, self.slots, self.narrow, tile)
        elif self.narrow:
            rows, words = self.spans
            with v.steps(b, self.args.rows, *rows) as row_range, v.steps(b, self.args.words, *words) as word_range:
                _clear(b, self.narrow)
                self.add_words(source, row_range, word_range)
                _add_narrow(b, self.slots, self.narrow, tile)
        else:
            self.add_words(source, (None, self.args.rows), (None, self.args.words))

    def add_words(self, source: Any, rows: tuple[Any, Any], words: tuple[Any, Any]) -> None:
        """Words [first, end) of kernel rows [first, end); None for 0."""
        b, word = self.b, i64(self.tile.word)
        (first_row, end_row), (first, end) = rows, words
        count_rows = end_row if first_row is None else b.sub(end_row, first_row)
        with cgutils.for_range(b, count_rows, intp=I64) as loop:
            row = loop.index if first_row is None else b.add(first_row, loop.index)
            at_row = b.add(source, b.mul(row, self.args.row))
            index = b.mul(row, self.args.words)
            if first is not None:
                at_row, index = b.add(at_row, b.mul(first, word)), b.add(index, first)
            weights_row = b.add(self.args.weights, b.mul(index, i64(self.stride)))
            count_words = end if first is None else b.sub(end, first)
            with cgutils.for_range(b, count_words, intp=I64) as inner:
                at = b.add(at_row, b.mul(inner.index, word))
                self.add_word(at, b.add(weights_row, b.mul(inner.index, i64(self.stride))), self.args.step_x)

    def add_word(self, source: Any, weights: Any, pixel_step: Any) -> None:
        """The products of one word of each pixel with its weights."""
        b, tile, size = self.b, self.tile, v.vector_bytes(self.loaded)
        w = [
            [v.load(b, b.add(weights, i64((plane * tile.vectors + c) * size)), self.loaded, size) for c in range(tile.vectors)]
            for plane in range(tile.planes)
        ]
        for p in range(tile.pixels // tile.shared):
            at = b.add(source, b.mul(pixel_step, i64(p * tile.shared)))
            if tile.kind in LOOK_UPS:
                self.look_up(p, at, w)
                continue
            u = self.activation(at)
            for c in range(tile.vectors):
                self.multiply(p, c, u, [plane[c] for plane in w])

    def activation(self, at: Any) -> Any:
        """A word of a pixel (or those of two neighbors) in every lane."""
        b, tile = self.b, self.tile
        if tile.neighbors:
            two = ir.IntType(2 * tile.bits)
            return b.bitcast(v.splat(b, v.load(b, at, two, 1), ir.VectorType(two, tile.lanes // 2)), self.vector)
        return v.splat(b, v.load(b, at, self.vector.element, 1), self.vector)

    def look_up(self, p: int, at: Any, w: list[list[Any]]) -> None:
        """Add the sums of a byte of four codes with four weights of every channel."""
        b, tile = self.b, self.tile
        codes = b.zext(v.load(b, at, I8, 1), I64)
        table = v.load(b, b.add(self.args.table, b.shl(codes, i64(4))), ir.VectorType(I8, 16), 16)
        for c in range(tile.vectors):
            slot = self.narrow[p][c]
            b.store(b.add(b.load(slot), v.look_up(b, table, w[0][c])), slot)
            if tile.planes == 2:
                b.store(b.sub(b.load(slot), v.look_up(b, table, w[1][c])), slot)

    def multiply(self, p: int, c: int, u: Any, w: list[Any]) -> None:
        """Add an activation's products with one vector of weights."""
        b, kind = self.b, self.tile.kind
        if kind == "dot16":
            slot = self.narrow[p][c]
            b.store(b.add(b.load(slot), v.dot_pairs(b, u, w[0])), slot)
            return
        slot = self.slots[p][c]
        if kind == "dot":
            b.store(v.dot_bytes(b, b.load(slot), u, w[0]), slot)
        elif kind == "float":
            b.store(b.fadd(b.load(slot), b.fmul(u, w[0])), slot)
        else:
            x = b.xor(u, w[0])
            x = b.and_(x, w[1]) if kind == "ternary" else x
            if self.narrow:
                slot = self.narrow[p][c]
                x = b.bitcast(x, slot.type.pointee)
            b.store(b.add(b.load(slot), v.ctpop(b, x)), slot)
