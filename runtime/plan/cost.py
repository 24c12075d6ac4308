"""What a convolution costs: the estimate by which a plan chooses tiles, and among popcounts, byte products and look-ups.

Codes of A bits are kept as A bit-planes, for popcounts, as bytes, for dot products, or four of them in a byte, for look-ups:
all convolutions that read a tensor must take the same. The unit is one vector instruction of the machine's width; a tile's
instructions for one word of its pixels, times words, planes, tiles in a row and rows, is the estimate. Measured (ResNet-20,
ternary, one thread, interleaved medians; Zen 5: ResNet-18's 3x3 layers of 256 channels, `bitplane bench --profile`):

| machine | bits | by popcounts | by byte products | estimates, 64 channels |
|---|---|---|---|---|
| Zen 3, AVX2 | 2 | 0.34 ms | 0.38 ms | 43 : 50 |
| | 4 | 0.76 ms | 0.38 ms | 87 : 50 |
| | 8 | 1.43 ms | 0.38 ms | 173 : 50 |
| Zen 4, VPOPCNTDQ and VNNI | 4 | 262 G multiply-adds/s | 235 G multiply-adds/s | 9 : 13 |
| Zen 5, the same | 4 | 486 G multiply-adds/s | 470 G multiply-adds/s | 9 : 13 |
| | 8 | 246 G multiply-adds/s | 470 G multiply-adds/s | 18 : 13 |

and of single layers on the Zen 3 (`runtime.inspect.single_layer`, each product forced by another `choose.codes_cost`, as
tests/runtime/kernels/test_layers.py does; least of 40 interleaved times, and in brackets thousands of estimated instructions):

| layer | bits | by popcounts | by byte products | by look-ups |
|---|---|---|---|---|
| binary, 256 channels at 14x14 | 1 | 322 us (3,895) | | 271 us (3,543) |
| | 2 | 641 us (7,788) | 807 us (9,935) | 318 us (3,957) |
| ternary, 256 channels at 14x14 | 2 | 717 us (8,692) | 797 us (9,935) | 468 us (6,296) |
| ternary, 64 channels at 8x8 | 2 | 19.2 us (177) | 20.0 us (203) | 12.3 us (124) |
| ternary, 16 channels at 32x32 | 2 | 20.9 us (184) | 26.2 us (221) | 30.8 us (290) |

and on the Zen 5, 4-bit codes in and out (median of 15 interleaved times; estimates with their paces, in thousands):

| layer | by popcounts | by byte products |
|---|---|---|
| binary, 64 channels at 56x56 | 203 us (1,722) | 247 us (2,210) |
| binary, 256 channels at 14x14 | 177 us (1,806) | 228 us (2,357) |
| ternary, 64 channels at 56x56 | 232 us (2,110) | 245 us (2,210) |
| ternary, 256 channels at 14x14 | 213 us (2,151) | 225 us (2,357) |
| ternary, 16 channels at 32x32 | 6.9 us (48) | 7.3 us (54) |
| ternary, 64 channels at 8x8 | 4.8 us (43) | 5.1 us (45) |
| quaternary, 256 channels at 14x14 | 381 us (3,935) | 225 us (2,357) |
"""

from dataclasses import dataclass

from bitplane.format.levels import LevelSet
from bitplane.runtime.kernels.shapes import LOOK_UPS, SUMS, Kind, Tile, is_narrow, tiles_for
from bitplane.runtime.kernels.target import MACHINE, Cpu
from bitplane.runtime.layouts import BLOCK, BYTES, FOURS, CodesLayout, pad_channels
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.plan.spans import count_spans, four_span, has_mask
from bitplane.runtime.plan.weights import is_pairs

LOOK_UP_SPAN = 8
"""Instructions that add a vector of 256 bits of sums in bytes to wider ones, at the end of a span."""

LOOK_UP_SUM = 60
"""Instructions that a vector of 256 bits of sums takes besides: fitted to the times of narrow layers."""

LOOK_UP_PACE = 0.8
"""Time of an instruction of a look-up tile, where one of a popcount tile is 1: measured on Zen 3, see the table."""

TERNARY_PACE, DOT_PACE = 1.15, 0.87
"""The same of ternary popcount tiles and of byte products, with VPOPCNTDQ and VNNI: measured on Zen 5, see the last table."""

STORE = 2
"""Instructions that store 16 codes of 4 or 8 bits: in each of their planes, or as bytes."""


@dataclass(frozen=True)
class Estimate:
    """Vector instructions of one image's convolution, and of storing the 4 or 8-bit codes it reads.

    Attributes:
        popcount: by popcounts; None where it cannot.
        dot: by byte products; None where it cannot.
        look_up: by tables of sums; None where it cannot.
    """

    popcount: float | None = None
    dot: float | None = None
    look_up: float | None = None


def popcount_kind(levels: LevelSet) -> Kind:
    """The kind of a level set's popcounts: one or two sign planes, or sign and mask."""
    return "ternary" if has_mask(levels) else "binary"


def look_up_kind(levels: LevelSet) -> Kind:
    """The kind of a level set's look-ups."""
    return "ternary look-up" if has_mask(levels) else "binary look-up"


def codes_cost(conv: LowBitConv, layout: CodesLayout, bits: int, height: int, width: int, cpu: Cpu = MACHINE) -> float:
    """Estimated vector instructions of a convolution on codes in a layout, whatever its weights.

    Args:
        conv: the convolution.
        layout: of what it reads: bytes, fours, or planes of words.
        bits: of a code.
        height: output rows.
        width: output pixels of a row.
        cpu: the processor.
    """
    o, kh, kw, _ = conv.weight_shape
    rows = pad_channels(o)
    if layout.code_bits == BYTES:
        _, work = cheapest_tile("dot16" if is_narrow(cpu) else "dot", 32, rows, width, 0, cpu=cpu)
        return (DOT_PACE if cpu.popcount else 1) * work * height * kh * kw * (layout.pixel // 4)
    words = kw * layout.words
    rows, block = (2 * rows, 2 * BLOCK) if is_pairs(conv.levels) else (rows, BLOCK)
    if layout.code_bits == FOURS:
        index, work = cheapest_tile(look_up_kind(conv.levels), 16, rows, width, 0, block, cpu)
        tile = tiles_for(cpu)[index]
        vectors = -(-width // tile.pixels) * tile.pixels * rows * tile.bits / 256
        spans = count_spans(kh, words, four_span(conv.levels, bits, words))
        return LOOK_UP_PACE * height * (work * kh * words + (LOOK_UP_SPAN * spans + LOOK_UP_SUM) * vectors)
    taps = kh if kh == kw == words and conv.strides[1] == 1 else 0
    kind = popcount_kind(conv.levels)
    _, work = cheapest_tile(kind, layout.bits, rows, width, taps, block, cpu)
    pace = TERNARY_PACE if cpu.popcount and kind == "ternary" else 1
    return pace * work * height * kh * words * layout.planes


def store_cost(layout: CodesLayout, channels: int) -> float:
    """Estimated vector instructions of storing a tensor of codes in a layout, where they leave a float epilogue.

    Args:
        layout: bytes, fours, or planes; 1 and 2-bit codes may leave as compare masks, whatever the layout: nothing is counted.
        channels: of the tensor.
    """
    planes = layout.planes if layout.planes > 2 else 1 if layout.code_bits == BYTES else 0
    return STORE * planes * layout.height * layout.width * pad_channels(channels) / 16


def cheapest_tile(
    kind: Kind, bits: int, rows: int, width: int, taps: int, block: int = BLOCK, cpu: Cpu = MACHINE
) -> tuple[int, float]:
    """Index of the tile with the least estimated work for one output row and word, and that work.

    Args:
        kind: product.
        bits: word size.
        rows: rows of the weight matrix.
        width: output pixels of a row.
        taps: kernel size where the kernel is square, one word a tap and of stride 1; otherwise 0.
        block: rows that must lie in one group.
        cpu: the processor.
    """
    best, least = -1, float("inf")
    for index, tile in enumerate(tiles_for(cpu)):
        if (tile.kind, tile.bits) != (kind, bits) or rows % tile.group or tile.group % block:
            continue
        if tile.pixels > width or tile.taps not in (0, taps):
            continue
        work = -(-width // tile.pixels) * (rows // tile.group) * word_cost(tile, cpu)
        if work < least:
            best, least = index, work
    return best, least


def word_cost(tile: Tile, cpu: Cpu = MACHINE) -> float:
    """Estimated vector instructions of a tile for one word of every pixel."""
    if cpu.avx512 and tile.kind in SUMS:
        return tile.pixels * (tile.vectors + 0.5) + tile.vectors * 0.5 + 2.5
    if cpu.popcount and tile.kind in ("binary", "ternary"):
        vectors = tile.vectors * (1 if tile.lanes * tile.bits > 256 else 0.7)
        return tile.pixels // tile.shared * (1.5 * vectors + 0.5) + tile.planes * vectors * 0.5 + (1 if tile.taps else 2.5)
    if tile.kind in LOOK_UPS:
        return 2 * (tile.pixels * (tile.vectors * tile.planes + 1) + tile.vectors * tile.planes + 1)
    vectors = tile.group * tile.bits / 256
    return tile.pixels * (_instructions(cpu)[tile.kind] * vectors + 1) + (0 if tile.taps else 4)


def _instructions(cpu: Cpu) -> dict[Kind, int]:
    """Instructions for a vector of weights and an activation, where no AVX-512 does them in fewer."""
    if cpu.avx2:
        return {"binary": 8, "ternary": 9, "dot": 3, "dot16": 2, "float": 2}
    if cpu.arm:  # `cnt` counts bytes
        return {"binary": 3, "ternary": 4, "dot": 24, "float": 2}
    return {"binary": 14, "ternary": 15, "dot": 24, "float": 2}
