"""The machine's limit for a tile: the same instructions on registers alone, without loads, stores or an epilogue.

A layer's share of it is layer word-operations a second / register loop word-operations a second.
"""

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from bitplane.runtime.kernels import intrinsics as v
from bitplane.runtime.kernels.intrinsics import I64, i64, intrinsic
from bitplane.runtime.kernels.options import INNER
from bitplane.runtime.kernels.target import HAS_POPCOUNT

ACCUMULATORS = 16 if HAS_POPCOUNT else 4
"""Independent sums of 512 bits, enough to hide the latency of popcount and addition, few enough to stay in registers."""


def _make_loop(kind: str, bits: int) -> Any:
    vector = ir.VectorType(ir.IntType(bits), 512 // bits)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        element = ir.IntType(bits)
        seed = b.trunc(args[0], element) if bits < I64.width else args[0]
        sign, mask = v.splat(b, seed, vector), v.splat(b, b.not_(seed), vector)
        slots = [cgutils.alloca_once(b, vector) for _ in range(ACCUMULATORS)]
        for index, slot in enumerate(slots):
            b.store(v.splat(b, b.add(seed, ir.Constant(element, index)), vector), slot)
        with cgutils.for_range(b, args[0], intp=I64):
            for slot in slots:
                acc = b.load(slot)
                x = b.xor(acc, sign)
                x = b.and_(x, mask) if kind == "ternary" else x
                if not HAS_POPCOUNT:  # bits are counted a byte there
                    acc, x = b.bitcast(acc, v.I8X64), b.bitcast(x, v.I8X64)
                b.store(b.bitcast(b.add(acc, v.ctpop(b, x)), vector), slot)
        total = i64(0)
        for slot in slots:
            lane = b.extract_element(b.load(slot), ir.Constant(v.I32, 0))
            total = b.add(total, b.zext(lane, I64) if bits < I64.width else lane)
        return total

    @intrinsic
    def loop(typingctx: Any, rounds: Any) -> Any:
        return types.int64(types.int64), codegen

    @numba.njit(numba.int64(numba.int64), **INNER)
    def run(rounds) -> int:  # noqa: ANN001
        return loop(rounds)

    return run


_LOOPS: dict[tuple[str, int], Any] = {}


def register_loop(kind: str, bits: int, rounds: int) -> int:
    """Run the register-only loop of one product; compiled on first use (about 0.1 s).

    Args:
        kind: "binary" (xor, popcount, add) or "ternary" (xor-and, popcount, add).
        bits: bits of a lane: 16, 32 or 64.
        rounds: iterations of the loop.

    Returns:
        Bit products done: each is one weight times one activation bit.
    """
    if (kind, bits) not in _LOOPS:
        _LOOPS[kind, bits] = _make_loop(kind, bits)
    _LOOPS[kind, bits](rounds)
    return rounds * ACCUMULATORS * 512
