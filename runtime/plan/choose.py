"""The layout of every tensor: how codes are stored decides by which product the convolutions that read them multiply.

All convolutions that read a tensor must take the same product: the one that `cost` estimates to be cheapest for all of them.
"""

from dataclasses import dataclass

from bitplane.runtime.kernels.shapes import is_narrow
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.layouts import BYTES, FOURS, CodesLayout, FeaturesLayout, Layout, pad_channels
from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.plan.cost import Estimate, codes_cost, store_cost
from bitplane.runtime.plan.spans import four_bound
from bitplane.runtime.plan.weights import word_bits


@dataclass(frozen=True)
class Layouts:
    """What a plan has chosen.

    Attributes:
        tensors: codes and features by name.
        estimates: name of a convolution on codes to what it would cost by each product.
    """

    tensors: dict[str, Layout]
    estimates: dict[str, Estimate]


def choose(model: Model, cpu: Cpu) -> Layouts:
    """Choose the layouts of a model's tensors for a processor."""
    readers: dict[str, list[LowBitConv]] = {}
    for node in model.nodes:
        if isinstance(node, LowBitConv):
            readers.setdefault(node.source, []).append(node)
    tensors: dict[str, Layout] = {}
    estimates: dict[str, Estimate] = {}
    for name, tensor in model.tensors.items():
        if tensor.kind == "features":
            c, height, width = tensor.shape
            tensors[name] = FeaturesLayout(pad_channels(c), height, width)
        elif tensor.kind == "codes":
            tensors[name], found = _choose_codes(model, name, readers.get(name, []), cpu)
            estimates |= found
    return Layouts(tensors, estimates)


def _choose_codes(model: Model, name: str, readers: list[LowBitConv], cpu: Cpu) -> tuple[CodesLayout, dict[str, Estimate]]:
    """Layout of codes, its halo by the convolutions that read them, and the estimates of those."""
    tensor = model.tensors[name]
    layouts = _candidates(tensor.shape, tensor.bits, readers, cpu)
    costs: dict[str, list[float]] = {product: [] for product in layouts}
    for conv in readers:
        size = model.tensors[conv.output].shape[1:]
        for product, layout in layouts.items():
            stored = store_cost(layout, tensor.shape[0]) / len(readers)  # once, for all of them
            costs[product].append(codes_cost(conv, layout, tensor.bits, *size, cpu) + stored)
    best = min(layouts, key=lambda product: sum(costs[product]))
    estimates = {
        conv.name: Estimate(**{product: found[i] for product, found in costs.items()}) for i, conv in enumerate(readers)
    }
    return layouts[best], estimates


def _candidates(shape: tuple[int, int, int], bits: int, readers: list[LowBitConv], cpu: Cpu) -> dict[str, CodesLayout]:
    """Layouts of codes [C, H, W] by the product that reads them."""
    channels, height, width = shape
    halo = max((p for n in readers for p in n.pads), default=0)
    sums = max((n.weight_shape[1] * n.weight_shape[2] * channels * (2**bits - 1) for n in readers), default=0)
    layouts = {"popcount": CodesLayout(channels, height, width, bits, halo, word_bits(channels, sums))}
    if bits > 1:
        layouts["dot"] = CodesLayout(8 * pad_channels(channels), height, width, 1, halo, 8, BYTES)
    if bits <= 2 and is_narrow(cpu) and all(_fits_look_up(n, bits) for n in readers):
        layouts["look_up"] = CodesLayout(2 * pad_channels(channels), height, width, 1, halo, 8, FOURS)
    return layouts


def _fits_look_up(conv: LowBitConv, bits: int) -> bool:
    """Whether 16 bits hold a look-up tile's sum, with one value to spare for "never"."""
    _, kh, kw, c = conv.weight_shape
    return four_bound(conv.levels, bits) * kh * kw * pad_channels(c) // 4 < 2**15 - 1
