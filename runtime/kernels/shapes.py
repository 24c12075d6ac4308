"""The compiled tiles by their shapes: what a plan chooses from."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from bitplane.runtime.kernels.target import MACHINE, Cpu

Kind = Literal["binary", "ternary", "binary look-up", "ternary look-up", "dot", "dot16", "float"]

SCRATCH_BYTES = 8 << 10
"""Accumulators of this many bytes, or of one row, wait for the float epilogue at a time: in L1, beside a group's weights."""


@dataclass(frozen=True)
class Tile:
    """Shape of one compiled tile.

    Attributes:
        kind: product: "binary" and "ternary" popcounts, or the same by "look-up" of four codes at once; "dot" of 4 uint8 and
            4 int8, or "dot16": the same, summed in 16 bits first; "float": multiply and add, each rounded.
        bits: bits of a lane, and of a word (look-ups: 8).
        lanes: lanes of a vector.
        pixels: P, output pixels of a row.
        vectors: C, vectors of output channels; `vectors * lanes` channels are a group.
        taps: kernel rows and words when they are compile-time (0: runtime). Then pixels are one word apart (stride 1).
        neighbors: lanes alternate between two neighboring pixels of a channel, so that 16 channels fill a vector of 512 bits;
            needs pixels one word apart, and one vector.
    """

    kind: Kind
    bits: int
    lanes: int
    pixels: int
    vectors: int
    taps: int = 0
    neighbors: bool = False

    @property
    def group(self) -> int:
        """Output rows of the weight matrix in one tile."""
        return self.lanes * self.vectors // self.shared

    @property
    def shared(self) -> int:
        """Pixels that share a vector."""
        return 2 if self.neighbors else 1

    @property
    def planes(self) -> int:
        """Weight vectors a word needs."""
        return 2 if self.kind in ("ternary", "ternary look-up") else 1

    @property
    def word(self) -> int:
        """Bytes of a word of codes; a weight has as many in its lane."""
        return 1 if self.kind in LOOK_UPS else self.bits // 8

    def __str__(self) -> str:
        return (
            f"{self.bits}-bit lanes, P{self.pixels}C{self.vectors}"
            + (f", {self.taps}x{self.taps} unrolled" if self.taps else "")
            + (", two pixels a vector" if self.neighbors else "")
        )


def _popcount_tiles(kind: Kind) -> list[Tile]:
    # Unrolled taps gain 20 % with 16-bit words and lose up to 30 % with 32 and 64: hoisted weights then spill accumulators.
    return [
        Tile(kind, 16, 32, 16, 1, 3, neighbors=True),
        Tile(kind, 16, 16, 8, 1, 3),
        Tile(kind, 16, 16, 8, 1),
        Tile(kind, 16, 16, 1, 1),
        Tile(kind, 16, 32, 8, 1, 3),
        Tile(kind, 16, 32, 8, 1),
        Tile(kind, 16, 32, 1, 1),
        Tile(kind, 32, 16, 4, 2),
        Tile(kind, 32, 16, 1, 2),
        Tile(kind, 32, 16, 4, 1),
        Tile(kind, 32, 16, 1, 1),
        Tile(kind, 64, 8, 4, 4),
        Tile(kind, 64, 8, 1, 4),
        Tile(kind, 64, 8, 7, 2),
        Tile(kind, 64, 8, 1, 2),
    ]


def _byte_tiles(kind: Kind) -> list[Tile]:
    # For machines without a vector popcount: at most 8 accumulators of 256 bits, so that 16 registers hold a tile. On Zen 3
    # larger ones (their accumulators spill) and unrolled 32 and 64-bit ones were slower.
    return [
        Tile(kind, 16, 16, 4, 1, 3),
        Tile(kind, 16, 16, 8, 1),
        Tile(kind, 16, 16, 1, 1),
        Tile(kind, 16, 32, 4, 1, 3),
        Tile(kind, 16, 32, 4, 1),
        Tile(kind, 16, 32, 1, 1),
        Tile(kind, 32, 16, 2, 2),
        Tile(kind, 32, 16, 1, 2),
        Tile(kind, 32, 16, 4, 1),
        Tile(kind, 32, 16, 1, 1),
        Tile(kind, 64, 8, 1, 4),
        Tile(kind, 64, 8, 1, 2),
    ]


def _wide_tiles() -> list[Tile]:
    dots = ((16, 1), (8, 1), (1, 1), (4, 4), (7, 2), (8, 2))
    floats = ((8, 1), (1, 1), (4, 4))
    return [Tile("dot", 32, 16, p, c) for p, c in dots] + [Tile("float", 32, 16, p, c) for p, c in floats]


def _narrow_tiles() -> list[Tile]:
    # 16 registers of 256 bits. On Zen 3 the tiles above do half of these' multiply-adds in bytes and a quarter in float32.
    return [
        Tile("dot", 32, 16, 4, 1),
        Tile("dot", 32, 16, 1, 1),
        Tile("dot", 32, 16, 2, 2),
        Tile("float", 32, 16, 4, 1),
        Tile("float", 32, 16, 1, 1),
    ]


def _short_tiles() -> list[Tile]:
    return [Tile("dot16", 32, 16, p, c) for p, c in ((4, 1), (1, 1), (2, 2))]


def _look_up_tiles(kind: Kind) -> list[Tile]:
    # On Zen 3 tiles of 3, 5, 6 and 7 pixels were slower than those of 4 in rows of 7 to 56 pixels, but for 5 in rows of 14.
    shapes = ((32, 4, 2), (32, 2, 2), (32, 1, 2), (32, 4, 1), (32, 1, 1), (16, 4, 1), (16, 1, 1))
    return [Tile(kind, 16, lanes, pixels, vectors) for lanes, pixels, vectors in shapes]


SUMS: tuple[Kind, ...] = ("dot", "dot16", "float")
"""Kinds of products of numbers, not of bits."""

LOOK_UPS: tuple[Kind, ...] = ("binary look-up", "ternary look-up")
"""Kinds that take sums of four products from a table."""


def is_narrow(cpu: Cpu) -> bool:
    """Whether a processor's kernels have "dot16" and "look-up" tiles: AVX2 alone.

    There a dot product of bytes and a popcount take several instructions each, and a table of 16 bytes is read by one.
    """
    return cpu.avx2 and not cpu.avx512


@cache
def tiles_for(cpu: Cpu) -> tuple[Tile, ...]:
    """Every tile that the kernels of a processor contain."""
    popcount_tiles = _popcount_tiles if cpu.popcount else _byte_tiles
    sums = _wide_tiles() if cpu.avx512 else _narrow_tiles()
    more = (*_short_tiles(), *(t for kind in LOOK_UPS for t in _look_up_tiles(kind))) if is_narrow(cpu) else ()
    return (*popcount_tiles("binary"), *popcount_tiles("ternary"), *sums, *more)


TILES: tuple[Tile, ...] = tiles_for(MACHINE)
"""Every tile `run_plan` contains; a step names one by its index."""
