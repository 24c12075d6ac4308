"""The ways a convolution on codes or pixels multiplies, as a plan needs them: popcounts, look-ups, byte products.

Each says which kind of tile runs it, the weight words that tile reads, and how its sum becomes the accumulator of the format,
sum(weight * code), with the integers of the level set as weights: tenths of quaternary ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.kernels.shapes import Kind, is_narrow
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.layouts import BYTES, FOURS, CodesLayout, pad_channels
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.operators.pixel_conv import PixelConv
from bitplane.runtime.plan.cost import look_up_kind, popcount_kind
from bitplane.runtime.plan.spans import BITS_SPAN, LEAST_SPAN, four_span_of, pairs_span
from bitplane.runtime.plan.weights import (
    byte_words,
    four_offsets,
    four_table,
    four_words,
    is_pairs,
    lane_words,
    offsets,
    pixel_offsets,
    pixel_words,
)


@dataclass(frozen=True, eq=False)
class Product:
    """How one convolution multiplies.

    Attributes:
        name: of the product, for people.
        kind: of tile.
        bits: of its lanes.
        weights: words of each weight vector that a tile loads, [R, kh, words].
        offset: int32 [O padded], added to a tile's sum (where `pairs`: to the sums times the level set's `sign_coefficients`).
        span: words that narrow lanes hold.
        planes: planes of codes, `plane` bytes apart.
        plane: 0 where there is one.
        taps: side of a kernel of one word a tap, or 0.
        pairs: whether a channel has two sums, of weights of four levels.
        from_zero: int64 [O], a sum less the unsigned one that `thresholds.integer_levels` counts by; None where sums do not
            become codes in registers.
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


def choose_product(conv: LowBitConv, layout: CodesLayout, bits: int, cpu: Cpu) -> Product:
    """The product that reads a layout.

    Args:
        conv: the convolution.
        layout: of what it reads.
        bits: of a code.
        cpu: the processor.
    """
    if layout.code_bits == BYTES:  # the weights themselves, nothing to subtract
        offset = np.zeros(pad_channels(conv.weight_shape[0]), np.int32)
        return _byte_product(byte_words(conv, layout.pixel), offset, 2**bits - 1, cpu)
    return (_look_up if layout.code_bits == FOURS else _popcount)(conv, layout, bits)


def pixel_product(conv: PixelConv, cpu: Cpu) -> Product:
    """The product of pixels."""
    return _byte_product(pixel_words(conv), pixel_offsets(conv), 255, cpu)


def _byte_product(weights: list[NDArray[np.generic]], offset: NDArray[np.int32], top: int, cpu: Cpu) -> Product:
    span = pairs_span(weights[0], top) if is_narrow(cpu) else 0
    return Product("dot u8s8", "dot16" if span >= LEAST_SPAN else "dot", 32, weights, offset, span)


def _look_up(conv: LowBitConv, layout: CodesLayout, bits: int) -> Product:
    weights, offset = four_words(conv, layout.pixel), four_offsets(conv, layout.pixel, bits)
    pairs = is_pairs(conv.levels)
    return Product(
        f"look-up {conv.levels.name} x{bits}b",
        look_up_kind(conv.levels),
        16,
        weights,
        offset,
        span=four_span_of(conv.levels, bits, weights),
        pairs=pairs,
        from_zero=None if pairs else (offsets(conv, 2**bits - 1) - offset)[: conv.weight_shape[0]].astype(np.int64),
        table=four_table(conv.levels, bits),
    )


def _popcount(conv: LowBitConv, layout: CodesLayout, bits: int) -> Product:
    o, kh, kw, _ = conv.weight_shape
    pairs = is_pairs(conv.levels)
    return Product(
        f"popcount {conv.levels.name} x{bits}b",
        popcount_kind(conv.levels),
        layout.bits,
        lane_words(conv, layout.bits),
        offsets(conv, 2**bits - 1),
        planes=layout.planes,
        plane=layout.plane,
        taps=kh if kh == kw == kw * layout.words and conv.strides[1] == 1 else 0,
        pairs=pairs,
        from_zero=None if pairs else np.zeros(o, np.int64),
    )
