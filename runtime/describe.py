"""What each layer of a model is and costs, for `bitplane inspect`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bitplane.format import names as fmt
from bitplane.format.pack import plane_bytes
from bitplane.runtime.cost import Estimate
from bitplane.runtime.model import Classifier, Conv, FloatConv, Model

_PLANE_BITS = {"binary": 1, "ternary": 2, "quaternary": 2}


@dataclass(frozen=True)
class LayerInfo:
    """One convolution or fully connected layer.

    Attributes:
        name: its name in the file.
        weight_shape: (O, C / group, kh, kw), or (O, C).
        output_shape: (O, H, W) of one image.
        weights: "binary", "ternary", "quaternary", "int8" or "float".
        activation_bits: bits of the values it reads: 1 to 8 for codes and pixels, 32 for float.
        multiply_adds: of one image.
        packed_bytes: its weight, scale and bias in the file.
        float_bytes: the same as float32 weight and bias.
        kernel: what runs it.
        popcount_cost: vector instructions it would take by popcounts, as `bitplane.runtime.cost` estimates; or None.
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
    popcount_cost: float | None = None
    dot_cost: float | None = None
    look_up_cost: float | None = None


def describe(model: Model, kernels: dict[str, str], estimates: Mapping[str, Estimate]) -> list[LayerInfo]:
    """The layers of a model in order.

    Args:
        model: a checked model.
        kernels: what runs each node, by name.
        estimates: what convolutions on codes would cost, by name.
    """
    layers: list[LayerInfo] = []
    for node in model.nodes:
        if isinstance(node, Conv):
            o, kh, kw, c = node.weight_shape
            bits = model.tensors[node.source].bits or 8
            size = sum(p.nbytes for p in node.planes) if node.pixel_weight is None else node.pixel_weight.nbytes + 1
            shape, levels, factors = (o, c, kh, kw), fmt.LEVELS[node.op].name if node.op in fmt.LEVELS else "int8", 8 * o
        elif isinstance(node, FloatConv | Classifier):
            shape, levels, bits = node.weight.shape, node.levels, 32
            size, factors = _stored(shape, levels), 4 * shape[0] * (1 if levels == "float" else 2)
        else:
            continue
        output = model.tensors[node.output].shape
        cost = estimates.get(node.name, Estimate())
        layers.append(
            LayerInfo(
                node.name,
                tuple(shape),
                output,
                levels,
                bits,
                prod(shape) * output[1] * output[2],
                size + factors,
                4 * (prod(shape) + shape[0]),
                kernels.get(node.name, ""),
                cost.popcount,
                cost.dot,
                cost.look_up,
            )
        )
    return layers


def _stored(shape: tuple[int, ...], levels: str) -> int:
    """Bytes of a weight of this shape in the file, without its factors."""
    if levels in _PLANE_BITS:
        return _PLANE_BITS[levels] * shape[0] * plane_bytes(prod(shape[1:]))
    return prod(shape) * (1 if levels == "int8" else 4)
