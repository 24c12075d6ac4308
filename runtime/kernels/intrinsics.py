"""LLVM vector pieces: everything a kernel needs that Numba's language lacks.

Only generic vector IR, so that LLVM lowers it for any machine; the byte dot product alone asks for instructions
(AVX-512 VNNI, or AVX2's multiply-add of pairs) where the host has them.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

from bitplane.runtime.kernels.options import INNER
from bitplane.runtime.kernels.target import HAS_AVX2, HAS_VNNI

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
F32X16, I32X16 = ir.VectorType(F32, 16), ir.VectorType(I32, 16)
I8X64 = ir.VectorType(I8, 64)

intrinsic: Any = numba_intrinsic  # callers leave out the typing context, which a type checker cannot know
carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]


def i64(value: int) -> ir.Constant:
    """The 64-bit constant `value`."""
    return ir.Constant(I64, value)


def vector_bytes(vector: ir.VectorType) -> int:
    """Size of a vector type in bytes."""
    width = 32 if vector.element == F32 else vector.element.width
    return vector.count * width // 8


def load(b: Any, address: Any, kind: Any, align: int) -> Any:
    """Load a `kind` from an integer address."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def column(b: Any, instruction: Any, index: int) -> Any:
    """A column of the instruction at an address (`fields`)."""
    return load(b, b.add(instruction, i64(8 * index)), I64, 8)


def store(b: Any, value: Any, address: Any, align: int) -> None:
    """Store `value` at an integer address."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = align


def splat(b: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Every lane of `vector` is `scalar`."""
    one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    lanes = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def constant(vector: ir.VectorType, value: float) -> ir.Constant:
    """A vector constant with `value` in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def ctpop(b: Any, value: Any) -> Any:
    """Population count of every lane."""
    name = f"llvm.ctpop.v{value.type.count}i{value.type.element.width}"
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(value.type, [value.type]), name), [value])


def sum_bytes(b: Any, value: Any, bits: int) -> Any:
    """Unsigned bytes <n x i8> to the sums of the bytes of each lane of `bits` bits."""
    lanes = ir.VectorType(ir.IntType(bits), value.type.count * 8 // bits)
    if HAS_AVX2 and value.type.count % 32 == 0:
        halves = [_sum_bytes_avx2(b, _lanes(b, value, at, 32), bits) for at in range(0, value.type.count, 32)]
        if len(halves) == 1:
            return halves[0]
        return b.shuffle_vector(*halves, ir.Constant(ir.VectorType(I32, lanes.count), list(range(lanes.count))))
    x, width = b.bitcast(value, lanes), 8
    while width < bits:
        low = constant(lanes, sum(((1 << width) - 1) << at for at in range(0, bits, 2 * width)))
        x = b.add(b.and_(x, low), b.and_(b.lshr(x, constant(lanes, width)), low))
        width *= 2
    return x


def _lanes(b: Any, value: Any, first: int, count: int) -> Any:
    if value.type.count == count:
        return value
    lanes = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), lanes)


def _sum_bytes_avx2(b: Any, value: Any, bits: int) -> Any:
    i8, i16, i32, wide = (ir.VectorType(ir.IntType(n), 256 // n) for n in (8, 16, 32, 64))
    if bits == 64:
        differences = cgutils.get_or_insert_function(b.module, ir.FunctionType(wide, [i8, i8]), "llvm.x86.avx2.psad.bw")
        return b.call(differences, [value, constant(i8, 0)])
    to_pairs = cgutils.get_or_insert_function(b.module, ir.FunctionType(i16, [i8, i8]), "llvm.x86.avx2.pmadd.ub.sw")
    pairs = b.call(to_pairs, [value, constant(i8, 1)])
    if bits == 16:
        return pairs
    to_sums = cgutils.get_or_insert_function(b.module, ir.FunctionType(i32, [i16, i16]), "llvm.x86.avx2.pmadd.wd")
    return b.call(to_sums, [pairs, constant(i16, 1)])


def ceil_div(b: Any, count: Any, step: Any) -> Any:
    """Count / step, rounded up; both positive."""
    return b.sdiv(b.add(count, b.sub(step, i64(1))), step)


@contextmanager
def steps(b: Any, count: Any, step: Any, runs: Any) -> Iterator[tuple[Any, Any]]:
    """Loop over [0, count) in `runs` ranges of at most `step`: first and one past the last of each."""
    with cgutils.for_range(b, runs, intp=I64) as loop:
        first = b.mul(loop.index, step)
        end = b.add(first, step)
        yield first, b.select(b.icmp_signed("<", end, count), end, count)


def rint(b: Any, value: Any) -> Any:
    """Round every float32 lane to the nearest integer, ties to even."""
    name = f"llvm.rint.v{value.type.count}f32"
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(value.type, [value.type]), name), [value])


def dot_bytes(b: Any, acc: Any, pixels: Any, weights: Any) -> Any:
    """Acc + sum over the 4 bytes of each lane of uint8 pixels times int8 weights; all three are <16 x i32>.

    With |weights| <= 64 no form of it saturates, so the instruction and the generic form agree.
    """
    if HAS_VNNI:
        kind = ir.FunctionType(I32X16, [I32X16, I8X64, I8X64])
        vpdpbusd = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return b.call(vpdpbusd, [acc, b.bitcast(pixels, I8X64), b.bitcast(weights, I8X64)])
    if HAS_AVX2:
        return b.add(acc, sum_pairs(b, dot_pairs(b, pixels, weights)))
    for byte in range(4):
        u = b.and_(b.lshr(pixels, constant(I32X16, 8 * byte)), constant(I32X16, 255))
        w = b.ashr(b.shl(weights, constant(I32X16, 24 - 8 * byte)), constant(I32X16, 24))
        acc = b.add(acc, b.mul(u, w))
    return acc


def dot_pairs(b: Any, pixels: Any, weights: Any) -> Any:
    """Sums of 2 products of uint8 pixels and int8 weights, <16 x i32> each, as <32 x i16> (AVX2, which holds 2 * 255 * 64)."""
    i8, i16 = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
    to_pairs = cgutils.get_or_insert_function(b.module, ir.FunctionType(i16, [i8, i8]), "llvm.x86.avx2.pmadd.ub.sw")
    pixels, weights = b.bitcast(pixels, I8X64), b.bitcast(weights, I8X64)
    halves = [b.call(to_pairs, [_lanes(b, pixels, at, 32), _lanes(b, weights, at, 32)]) for at in (0, 32)]
    return b.shuffle_vector(*halves, ir.Constant(ir.VectorType(I32, 32), list(range(32))))


def sum_pairs(b: Any, value: Any) -> Any:
    """<32 x i16> to the sums of pairs, <16 x i32> (AVX2)."""
    i16, i32 = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    to_sums = cgutils.get_or_insert_function(b.module, ir.FunctionType(i32, [i16, i16]), "llvm.x86.avx2.pmadd.wd")
    halves = [b.call(to_sums, [_lanes(b, value, at, 16), constant(i16, 1)]) for at in (0, 16)]
    return b.shuffle_vector(*halves, ir.Constant(I32X16, list(range(16))))


def pack_fours(b: Any, reached: list[Any], bits: int) -> Any:
    """Codes, the number of masks <n x i1> that are true, as bytes of four codes of 2 bits, the first lowest: <n / 4 x i8>.

    The masks come from comparisons of lanes of `bits` bits.
    """
    count = reached[0].type.count
    lanes = ir.VectorType(ir.IntType(bits), count)
    total = b.zext(reached[0], lanes)
    for mask in reached[1:]:
        total = b.add(total, b.zext(mask, lanes))
    total = b.trunc(total, ir.VectorType(I8, count))
    words = ir.VectorType(I32, count // 4)
    x = b.bitcast(total, words)
    for code in range(1, 4):
        x = b.or_(x, b.lshr(b.bitcast(total, words), constant(words, 6 * code)))
    return b.trunc(x, ir.VectorType(I8, count // 4))


def look_up(b: Any, table: Any, indices: Any) -> Any:
    """Bytes of a table <16 x i8> at the indices below 16 of <16 x i8> or <32 x i8> (SSSE3, AVX2)."""
    name = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b"}[indices.type.count]
    lanes = ir.Constant(ir.VectorType(I32, indices.type.count), list(range(16)) * (indices.type.count // 16))
    table = b.shuffle_vector(table, ir.Constant(table.type, ir.Undefined), lanes)
    kind = ir.FunctionType(indices.type, [indices.type] * 2)
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), [table, indices])


def emit_call(b: Any, name: str, arguments: list[Any], emit: Callable[[Any, list[Any]], None], compact: bool = False) -> None:
    """Call a function of 64-bit integers that `emit` writes into the module on first use.

    Each kernel variant is an LLVM function of its own: registers are allocated for it alone, and LLVM's time stays linear in
    the number of variants (one Numba function each took 83 s to compile instead of 11 s: Numba optimizes a function again
    in each of its callers).

    `compact` keeps LLVM from unrolling a loop of several pointers, whose copies would not fit the integer registers.
    """
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        if compact:
            function.attributes.add("optsize")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        emit(inner, list(function.args))
        inner.ret_void()
    b.call(function, arguments)


@intrinsic
def pointer(typingctx: Any, address: Any, kind: Any) -> Any:
    """The address as a pointer to a numba scalar type."""
    sig = types.CPointer(kind.dtype)(types.intp, kind)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.inttoptr(args[0], context.get_value_type(sig.return_type))

    return sig, codegen


@numba.njit(**INNER)
def address_of(steps: Any, i: int) -> int:
    """The address of instruction `i` of a table."""
    return steps.ctypes.data + i * steps.strides[0]


@numba.njit(**INNER)
def floats(address: int, count: int) -> Any:
    """The `count` float32 at an address, as an array."""
    return carray(pointer(address, numba.float32), count)


@numba.njit(**INNER)
def bytes_at(address: int, count: int) -> Any:
    """The `count` uint8 at an address, as an array."""
    return carray(pointer(address, numba.uint8), count)


@numba.njit(**INNER)
def share(total: int, part: int, parts: int) -> Any:
    """First and one past the last item of thread `part` of `parts`."""
    return total * part // parts, total * (part + 1) // parts


@intrinsic
def move_vector(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy 16 float32."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        store(b, load(b, args[1], F32X16, 4), args[0], 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@intrinsic
def zero_vector(typingctx: Any, target: Any) -> Any:
    """Clear 16 float32."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        store(b, constant(F32X16, 0.0), args[0], 4)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def max_window(
    typingctx: Any, integers: Any, target: Any, source: Any, size: Any, rows: Any, row: Any, columns: Any, column: Any
) -> Any:  # fmt: skip
    """Largest of a window of rows x columns pixels, `row` and `column` bytes apart, of `size` bytes each: whole vectors.

    Lanes are int32 where `integers` is not 0, else float32. A window of 3x3 takes no loops.
    """

    def emit(b: Any, kind: Any, args: list[Any]) -> None:
        target, source, size, rows, row, columns, column = args
        lowest = constant(kind, -math.inf if kind == F32X16 else -(1 << 31))

        def larger(best: Any, address: Any) -> Any:
            value = load(b, address, kind, 4)
            is_more = b.fcmp_ordered(">", value, best) if kind == F32X16 else b.icmp_signed(">", value, best)
            return b.select(is_more, value, best)

        three = i64(3)
        is_usual = b.and_(b.icmp_signed("==", rows, three), b.icmp_signed("==", columns, three))
        vectors = b.udiv(size, i64(64))
        with b.if_else(is_usual, likely=True) as (usual, other):
            with usual:
                starts = [b.add(source, b.mul(row, i64(y))) for y in range(3)]
                with cgutils.for_range(b, vectors, intp=I64) as block:
                    at = b.mul(block.index, i64(64))
                    best = lowest
                    for start in starts:
                        for x in range(3):
                            best = larger(best, b.add(b.add(start, b.mul(column, i64(x))), at))
                    store(b, best, b.add(target, at), 4)
            with other, cgutils.for_range(b, vectors, intp=I64) as block:
                at = b.mul(block.index, i64(64))
                slot = cgutils.alloca_once(b, kind)
                b.store(lowest, slot)
                with cgutils.for_range(b, rows, intp=I64) as y:
                    start = b.add(b.add(source, at), b.mul(y.index, row))
                    with cgutils.for_range(b, columns, intp=I64) as x:
                        b.store(larger(b.load(slot), b.add(start, b.mul(x.index, column))), slot)
                store(b, b.load(slot), b.add(target, at), 4)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        with b.if_else(b.icmp_signed("!=", args[0], i64(0))) as (whole, fractions):
            with whole:
                emit(b, I32X16, args[1:])
            with fractions:
                emit(b, F32X16, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), codegen


@intrinsic
def interleave(typingctx: Any, target: Any, source: Any, channel: Any) -> Any:
    """16 pixels of 3 channels, `channel` bytes apart, to 48 bytes, channels fastest."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source, channel = args
        narrow = ir.VectorType(I8, 16)
        first, second, third = (load(b, b.add(source, b.mul(channel, i64(c))), narrow, 1) for c in range(3))

        def shuffle(x: Any, y: Any, lanes: list[int]) -> Any:
            return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

        pair = shuffle(first, second, list(range(32)))
        rest = shuffle(third, third, list(range(16)) * 2)
        pixels = shuffle(pair, rest, [c * 16 + x for x in range(16) for c in range(3)])
        store(b, pixels, target, 1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Atomic int64 addition; returns the value before."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def load_acquire(typingctx: Any, address: Any) -> Any:
    """Atomic int64 load."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "acquire", 8)

    return types.int64(types.intp), codegen


@intrinsic
def yield_processor(typingctx: Any) -> Any:
    """Let another thread run (POSIX sched_yield; nothing elsewhere)."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        if sys.platform != "win32":
            b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen
