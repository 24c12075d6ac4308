"""What each layer of a model is and costs, for `bitplane inspect`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bitplane.format.levels import LEVEL_SETS
from bitplane.format.pack import plane_bytes
from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.float_conv import FloatConv
from bitplane.runtime.operators.gemm import Classifier
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.operators.pixel_conv import PixelConv
from bitplane.runtime.plan.convolve import Kernel
from bitplane.runtime.plan.cost import Estimate


@dataclass(frozen=True)
class LayerInfo:
    """One convolution or fully connected layer.

    Attributes:
        name: its name in the file.
        weight_shape: (O, C / group, kh, kw), or (O, C).
        output_shape: (O, H, W) of one image.
        weights: "binary", "ternary", "quaternary", "four-level LOW:HIGH", "int8" or "float".
        activation_bits: bits of the values it reads: 1 to 8 for codes and pixels, 32 for float.
        multiply_adds: of one image.
        packed_bytes: its weight, scale and bias in the file.
        float_bytes: the same as float32 weight and bias.
        kernel: what runs it, for people.
        product: of a convolution: "popcount", "look-up", "bytes" or "float32"; "" of anything else.
        lanes: bits of a lane of its tile; 0 of anything else.
        popcount_cost: vector instructions it would take by popcounts, as `runtime/plan/cost.py` estimates; or None.
        dot_cost: the same by products of bytes.
        look_up_cost: the same by tables of sums.
    """

    name: str
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, int, int]
    weights: str
    activation_bits: int
    multiply_adds: int
    packed_bytes: int
    float_bytes: int
    kernel: str
    product: str = ""
    lanes: int = 0
    popcount_cost: float | None = None
    dot_cost: float | None = None
    look_up_cost: float | None = None


def describe(model: Model, kernels: Mapping[str, Kernel], estimates: Mapping[str, Estimate]) -> list[LayerInfo]:
    """The layers of a model in order.

    Args:
        model: a checked model.
        kernels: what runs each node, by name.
        estimates: what convolutions on codes would cost, by name.
    """
    layers: list[LayerInfo] = []
    for node in model.nodes:
        if not isinstance(node, LowBitConv | PixelConv | FloatConv | Classifier):
            continue
        shape, weights, bits, stored = _weight(model, node)
        output, kernel = model.tensors[node.output].shape, kernels.get(node.name, Kernel(""))
        cost = estimates.get(node.name, Estimate())
        layers.append(
            LayerInfo(
                name=node.name,
                weight_shape=shape,
                output_shape=output,
                weights=weights,
                activation_bits=bits,
                multiply_adds=prod(shape) * output[1] * output[2],
                packed_bytes=stored,
                float_bytes=4 * (prod(shape) + shape[0]),
                kernel=kernel.text,
                product=kernel.product,
                lanes=kernel.lanes,
                popcount_cost=cost.popcount,
                dot_cost=cost.dot,
                look_up_cost=cost.look_up,
            )
        )
    return layers


def _weight(model: Model, node: LowBitConv | PixelConv | FloatConv | Classifier) -> tuple[tuple[int, ...], str, int, int]:
    """Shape (O, C, kh, kw) or (O, C), name of the weights, bits of what they multiply, and bytes in the file."""
    if isinstance(node, LowBitConv):
        o, kh, kw, c = node.weight_shape
        return (o, c, kh, kw), node.levels.name, model.tensors[node.source].bits, sum(p.nbytes for p in node.planes) + 8 * o
    if isinstance(node, PixelConv):
        return node.weight.shape, "int8", 8, node.weight.nbytes + 1 + 8 * len(node.weight)
    factors = 4 * len(node.weight) * (1 if node.stored == "float" else 2)
    return node.weight.shape, node.stored, 32, _stored_bytes(node.weight.shape, node.stored) + factors


def _stored_bytes(shape: tuple[int, ...], stored: str) -> int:
    """Bytes of a weight of this shape in the file, without its factors."""
    if stored in ("int8", "float"):
        return prod(shape) * (1 if stored == "int8" else 4)
    planes = len(LEVEL_SETS[stored].planes) if stored in LEVEL_SETS else 2  # of four levels
    return planes * shape[0] * plane_bytes(prod(shape[1:]))
