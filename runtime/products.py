"""The ways a convolution on codes or pixels multiplies, as a plan needs them: popcounts, look-ups, byte products.

Each says which kind of tile runs it, the weight words that tile reads, and how its sum becomes the accumulator of the format,
sum(weight * code), in tenths for quaternary weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime.arena import BYTES, FOURS, CodesLayout
from bitplane.runtime.cost import KINDS, LOOK_UP
from bitplane.runtime.kernels.shapes import Kind, is_narrow
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.model import Conv
from bitplane.runtime.packing import (
    BITS_SPAN,
    LEAST_SPAN,
    byte_words,
    four_offsets,
    four_span_of,
    four_table,
    four_words,
    lane_words,
    offsets,
    pad_channels,
    pairs_span,
)  # fmt: skip


@dataclass(frozen=True)
class Product:
    """How one convolution multiplies.

    Attributes:
        name: of the product, for people.
        kind: of tile.
        bits: of its lanes.
        weights: words of each weight vector that a tile loads, [R, kh, words].
        offset: int32 [O padded], added to a tile's sum (to 13 times the first and 7 times the second, where `pairs`).
        span: words that narrow lanes hold.
        planes: planes of codes, `plane` bytes apart.
        plane: 0 where there is one.
        taps: side of a kernel of one word a tap, or 0.
        pairs: whether a channel has two sums, of quaternary weights.
        from_zero: int64 [O], a sum less the unsigned one that `packing.integer_levels` counts by; None where sums do not become
            codes in registers.
        table: of sums, of a look-up.
    """

    name: str
    kind: Kind
    bits: int
    weights: list[NDArray[np.generic]]
    offset: NDArray[np.int32]
    span: int = BITS_SPAN
    planes: int = 1
    plane: int = 0
    taps: int = 0
    pairs: bool = False
    from_zero: NDArray[np.int64] | None = None
    table: NDArray[np.int8] | None = None

    @property
    def words(self) -> int:
        """Of one kernel row."""
        return self.weights[0].shape[2]


def choose_product(conv: Conv, layout: CodesLayout, bits: int, cpu: Cpu) -> Product:
    """The product that reads a layout.

    Args:
        conv: the convolution.
        layout: of what it reads.
        bits: of a code; 8 of pixels.
        cpu: the processor.
    """
    if layout.code_bits == BYTES:
        return _byte_product(conv, layout, bits, cpu)
    return (_look_up if layout.code_bits == FOURS else _popcount)(conv, layout, bits)


def _byte_product(conv: Conv, layout: CodesLayout, bits: int, cpu: Cpu) -> Product:
    if conv.pixel_weight is not None:
        weights, offset = lane_words(conv, 32), offsets(conv, 1)
    else:  # the weights themselves, nothing to subtract
        weights, offset = byte_words(conv, layout.pixel), np.zeros(pad_channels(conv.weight_shape[0]), np.int32)
    span = pairs_span(weights[0], 2**bits - 1) if is_narrow(cpu) else 0
    return Product("dot u8s8", "dot16" if span >= LEAST_SPAN else "dot", 32, weights, offset, span)


def _look_up(conv: Conv, layout: CodesLayout, bits: int) -> Product:
    weights, offset = four_words(conv, layout.pixel), four_offsets(conv, layout.pixel, bits)
    quaternary = conv.op == fmt.QUATERNARY_CONV
    return Product(
        f"look-up {fmt.LEVELS[conv.op].name} x{bits}b",
        LOOK_UP[conv.op],
        16,
        weights,
        offset,
        span=four_span_of(conv.op, bits, weights),
        pairs=quaternary,
        from_zero=None if quaternary else (offsets(conv, 2**bits - 1) - offset)[: conv.weight_shape[0]].astype(np.int64),
        table=four_table(conv.op, bits),
    )


def _popcount(conv: Conv, layout: CodesLayout, bits: int) -> Product:
    o, kh, kw, _ = conv.weight_shape
    quaternary = conv.op == fmt.QUATERNARY_CONV
    return Product(
        f"popcount {fmt.LEVELS[conv.op].name} x{bits}b",
        KINDS[conv.op],
        layout.bits,
        lane_words(conv, layout.bits),
        offsets(conv, 2**bits - 1),
        planes=layout.planes,
        plane=layout.plane,
        taps=kh if kh == kw == kw * layout.words and conv.strides[1] == 1 else 0,
        pairs=quaternary,
        from_zero=None if quaternary else np.zeros(o, np.int64),
    )
