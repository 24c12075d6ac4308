"""One convolution layer by itself, for benchmarks: a table of one step over random packed buffers."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.levels import LEVEL_SETS, LevelSet
from bitplane.format.pack import pack_plane
from bitplane.runtime.execute import machine_code
from bitplane.runtime.execute.call import instructions_of
from bitplane.runtime.layouts import BYTES, FOURS, CodesLayout
from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.base import Tensor
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.operators.quantize import Quantize
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.plan import Plan
from bitplane.runtime.plan.spans import has_mask
from bitplane.runtime.plan.weights import is_pairs


@dataclass
class ConvLayer:
    """A convolution with threshold epilogue (1- and 2-bit codes out) or float epilogue, on packed codes.

    Call it to run it. Make one with `make_layer`.

    Attributes:
        kernel: what runs it, for people.
        product: "popcount", "look-up" or "bytes".
        lanes: bits of a lane of its tile.
        products: weight times activation-bit products of one run (a weight of two sign planes counts twice).
    """

    kernel: str
    product: str
    lanes: int
    products: int
    _plan: Plan
    _arena: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self._run_plan = machine_code.load()
        self._call = instructions_of(self._plan, self._arena.ctypes.data)

    def __call__(self, times: int = 1) -> None:
        """Run the layer `times` times, as a network does in one call for a batch."""
        self._run_plan(*self._call._replace(n_images=times))


def make_layer(
    weights: Literal["binary", "ternary", "quaternary"] | LevelSet,
    channels: int,
    size: int,
    *,
    out_channels: int | None = None,
    kernel: int = 3,
    stride: int = 1,
    bits: int = 1,
    out_bits: int = 1,
    seed: int = 0,
) -> ConvLayer:
    """A layer with random weights and activations.

    Args:
        weights: level set, or the name of one.
        channels: input channels.
        size: height and width of the input.
        out_channels: output channels; `channels` by default.
        kernel: kernel size; padding is kernel // 2.
        stride: stride.
        bits: activation bits in: 1, 2, 4 or 8.
        out_bits: activation bits out.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    o, k = out_channels or channels, kernel * kernel * channels
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    signs, masks = rng.integers(0, 2, (2, o, kernel, kernel, channels))
    levels = LEVEL_SETS[weights] if isinstance(weights, str) else weights
    planes = [signs & masks if has_mask(levels) else signs, masks][: len(levels.planes)]
    half = kernel // 2
    pads = (half, half, half, half)
    spread = np.float32(2 / (np.sqrt(k) * (2**bits - 1)))
    factors = np.full(o, spread, np.float32), rng.normal(0, 1, o).astype(np.float32)
    packed = tuple(pack_plane(p) for p in planes)
    shape = (o, kernel, kernel, channels)
    conv = LowBitConv("conv", "a", "y", (stride, stride), pads, shape, *factors, levels, packed)
    nodes = (conv, Quantize("quantizer", "y", "b", out_bits, 1.0 / (2**out_bits - 1)))
    tensors = {
        fmt.INPUT_NAME: Tensor("pixels", (1, 1, 1)),
        "a": Tensor("codes", (channels, size, size), bits),
        "y": Tensor("features", (o, out, out)),
        "b": Tensor("codes", (o, out, out), out_bits),
    }
    model = Model("layer", nodes, tensors, fmt.INPUT_NAME, "b", {})
    plan = make_plan(model, PlanOptions(inputs=("a",)))
    arena = plan.arena.create()
    layout, at = plan.codes["a"]
    _fill(arena[at : at + layout.size], layout, channels, bits, rng)
    products = prod(conv.weight_shape) * out * out * bits * (2 if is_pairs(levels) else 1)
    run = plan.kernels()["conv"]
    return ConvLayer(run.text, run.product, run.lanes, products, plan, arena)


def _fill(memory: NDArray[np.uint8], layout: CodesLayout, channels: int, bits: int, rng: np.random.Generator) -> None:
    """Random codes of `bits` bits in a buffer."""
    size = layout.height
    codes = memory.reshape(layout.planes, -1)[:, : (layout.height + 2 * layout.halo) * layout.row]
    inner = codes.reshape(layout.planes, layout.height + 2 * layout.halo, -1, layout.pixel)
    edge = slice(layout.halo, layout.halo + size)
    if layout.code_bits == BYTES:
        inner[0, edge, edge, :channels] = rng.integers(0, 2**bits, (size, size, channels))
    elif layout.code_bits == FOURS:
        values = np.zeros((size, size, layout.pixel, 4), np.uint8)
        values.reshape(size, size, -1)[..., :channels] = rng.integers(0, 2**bits, (size, size, channels))
        inner[0, edge, edge] = (values << np.arange(0, 8, 2, dtype=np.uint8)).sum(-1, dtype=np.uint8)
    else:
        values = rng.integers(0, 2, (bits, size, size, layout.words * layout.bits)).astype(np.uint8)
        values[..., channels:] = 0
        inner[:, edge, edge] = np.packbits(values, axis=-1, bitorder="little")
