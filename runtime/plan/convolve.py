"""Convolutions to instructions: the product, its tile, packed weights, and thresholds or an epilogue."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.instructions import Convolve, Epilogue, Results
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import Tile, tiles_for
from bitplane.runtime.layouts import BLOCK, CodesLayout, haloed_features, pad_channels
from bitplane.runtime.operators.base import Convolution, Quantizer
from bitplane.runtime.operators.float_conv import FloatConv
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.operators.pixel_conv import PixelConv
from bitplane.runtime.plan.cost import cheapest_tile
from bitplane.runtime.plan.emission import Emission
from bitplane.runtime.plan.epilogue import describe_epilogue, make_epilogue
from bitplane.runtime.plan.fuse import Step
from bitplane.runtime.plan.products import Product, choose_product, pixel_product
from bitplane.runtime.plan.thresholds import integer_levels, pack_levels
from bitplane.runtime.plan.weights import pack_weights

ProductName = Literal["popcount", "look-up", "bytes", "float32", ""]


@dataclass(frozen=True, eq=False)
class Kernel:
    """What runs a step.

    Attributes:
        text: for people, such as "popcount ternary x2b, 16-bit lanes, P8C1, threshold epilogue".
        product: of a convolution: "popcount", "look-up", "bytes" or "float32"; "" of anything else.
        lanes: bits of a lane of its tile; 0 of anything else.
    """

    text: str
    product: ProductName = ""
    lanes: int = 0


@dataclass(frozen=True, eq=False)
class Multiplication:
    """The products of a convolution, ready for an instruction.

    Attributes:
        tile: index of its tile.
        layout: of what it reads.
        at: arena offset of that.
        words: weight words of each weight vector, [R, kh, words].
        planes: planes of codes, `plane` bytes apart.
        plane: 0 where there is one.
        span: words that narrow lanes hold.
        block: rows of the weight matrix that give 16 channels.
        table: of sums, of a look-up.
    """

    tile: int
    layout: CodesLayout
    at: int
    words: list[NDArray[np.generic]]
    planes: int = 1
    plane: int = 0
    span: int = 0
    block: int = BLOCK
    table: NDArray[np.int8] | None = None


@dataclass(frozen=True, eq=False)
class Ending:
    """What becomes of a tile's sums: compared with thresholds in registers, left to a pool, or finished by the epilogue."""

    epilogue: Epilogue
    mode: int = f.MODE_ROW
    limits: NDArray[np.generic] | None = None  # [group, ...]


def convolve(e: Emission, step: Step) -> tuple[Convolve, Kernel]:
    """The instruction of a step that a convolution heads, and what runs it."""
    if isinstance(step.head, FloatConv):
        return _float_conv(e, step, step.head)
    assert isinstance(step.head, LowBitConv | PixelConv)
    return _integer_conv(e, step, step.head)


def _integer_conv(e: Emission, step: Step, conv: LowBitConv | PixelConv) -> tuple[Convolve, Kernel]:
    layout, at = e.codes(step.source)
    if isinstance(conv, PixelConv):
        product = pixel_product(conv, e.cpu)
    else:
        product = choose_product(conv, layout, e.bits(conv.source), e.cpu)
    rows, block = product.weights[0].shape[0], 2 * BLOCK if product.pairs else BLOCK
    width = e.model.tensors[conv.output].shape[2]
    index, _ = cheapest_tile(product.kind, product.bits, rows, width, product.taps, block, e.cpu)
    tile = tiles_for(e.cpu)[index]
    name = f"{product.name}, {tile}"
    weights, planes, table = product.weights, (product.planes, product.plane), product.table
    m = Multiplication(index, layout, at, weights, *planes, product.span, block, table)
    quantizer = _thresholded(e, step, product, layout)
    instruction, text = None, f"{name}, float epilogue{describe_epilogue(step)}"
    if quantizer is not None and isinstance(conv, LowBitConv):
        ending = _threshold_ending(e, step, conv, product, tile, quantizer)
        instruction, text = _instruction(e, step, conv, m, ending), f"{name}, threshold epilogue"
    else:
        ending = Ending(_epilogue(e, step, conv, product))
        if step.pool is not None and not product.pairs:
            ending = Ending(ending.epilogue, f.MODE_POOL)
        instruction = _instruction(e, step, conv, m, ending)
    return instruction, Kernel(text, _product_name(product), tile.bits)


def _product_name(product: Product) -> ProductName:
    if product.kind in ("dot", "dot16"):
        return "bytes"
    return "popcount" if product.table is None else "look-up"


def _thresholded(e: Emission, step: Step, product: Product, layout: CodesLayout) -> Quantizer | None:
    """The quantizer whose codes are made by comparing sums in registers, or None."""
    q = step.quantizer
    if q is None or product.from_zero is None or q.code_bits > 2 or e.codes(q.output)[0].code_bits != layout.code_bits:
        return None
    is_monotone = step.activation is None or step.activation.is_monotone
    return q if is_monotone and step.residual is None and step.stored is None else None


def _threshold_ending(e: Emission, step: Step, conv: LowBitConv, product: Product, tile: Tile, quantizer: Quantizer) -> Ending:
    assert product.from_zero is not None
    sums = integer_levels(conv, 2 ** e.bits(conv.source) - 1, step.activation, quantizer)
    limits = pack_levels(sums + product.from_zero, product.weights[0].shape[0], tile)
    in_planes = f.MODE_ONE if quantizer.code_bits == 1 else f.MODE_TWO
    mode = in_planes if product.table is None else f.MODE_FOURS
    return Ending(Epilogue(Results(f.FROM_ACCUMULATORS), output=e.output(quantizer.output)), mode, limits)


def _epilogue(e: Emission, step: Step, conv: LowBitConv | PixelConv, product: Product) -> Epilogue:
    factors = e.constant(product.offset), e.channel_constant(conv.scale), e.channel_constant(conv.bias)
    if not product.pairs or isinstance(conv, PixelConv):
        return make_epilogue(e, step, Results(f.FROM_ACCUMULATORS, *factors))
    return make_epilogue(e, step, Results(f.FROM_PLANE_PAIRS, *factors, *conv.levels.sign_coefficients))


def _instruction(e: Emission, step: Step, conv: Convolution, m: Multiplication, ending: Ending) -> Convolve:
    tile = tiles_for(e.cpu)[m.tile]
    packed, layout = pack_weights(m.words, tile), m.layout
    _, height, width = e.model.tensors[conv.output].shape
    band = None if step.stored is None else e.memory.bands.get(step.stored)
    limits = ending.limits
    return Convolve(
        tile=m.tile,
        source=m.at + layout.at(-conv.pads[0], -conv.pads[1]),
        source_plane=m.plane,
        source_planes=m.planes,
        source_row=layout.row,
        source_step_y=conv.strides[0] * layout.row,
        source_step_x=conv.strides[1] * layout.pixel,
        kernel_rows=conv.weight_shape[1],
        kernel_words=m.words[0].shape[2],
        span=m.span,
        table=0 if m.table is None else e.shared_constant(m.table),
        weights=e.constant(packed),
        weights_group=packed[0].nbytes,
        groups=len(m.words[0]) // tile.group,
        group_channels=tile.group,
        vectors=tile.group // m.block,
        height=height,
        width=width,
        mode=ending.mode,
        limits=0 if limits is None else e.constant(limits),
        limits_group=0 if limits is None else limits[0].nbytes,
        scratch=e.scratch,
        epilogue=ending.epilogue,
        band=0 if band is None else band.pool_rows,
        band_rows=0 if band is None else band.rows,
    )


def _float_conv(e: Emission, step: Step, conv: FloatConv) -> tuple[Convolve, Kernel]:
    """Convolution of float32 words; groups become zeros of a dense weight."""
    o, kh, kw, c = conv.weight_shape
    width = e.model.tensors[conv.output].shape[2]
    if step.source in e.memory.codes:
        layout, at = e.codes(step.source)
    else:
        features, at = e.features(step.source)
        layout = haloed_features(features, 0)
    channels = layout.channels // 32
    weight = np.zeros((pad_channels(o), kh, kw, channels), np.float32)
    for group in range(conv.group):
        rows, columns = o // conv.group, slice(group * c, (group + 1) * c)
        part = slice(group * rows, (group + 1) * rows)
        weight[part, :, :, columns] = conv.weight[part].transpose(0, 2, 3, 1)
    index, _ = cheapest_tile("float", 32, len(weight), width, 0, cpu=e.cpu)
    tile = tiles_for(e.cpu)[index]
    m = Multiplication(index, layout, at, [weight.reshape(len(weight), kh, -1)])
    ending = Ending(make_epilogue(e, step, Results(f.FROM_SUMS, bias=e.channel_constant(conv.bias))))
    stored = "" if conv.stored == "float" else f", {conv.stored} weights in the file"
    groups = f", {conv.group} groups as dense" if conv.group > 1 else ""
    text = f"float32, {tile}, float epilogue{describe_epilogue(step)}{stored}{groups}"
    return _instruction(e, step, conv, m, ending), Kernel(text, "float32", 32)
