"""What ONNX's operators on single elements are read as."""

from collections.abc import Callable

import numpy as np
import onnx

from bitplane.export.network import INPUT
from bitplane.export.nodes.add import Add
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.clip import LARGEST, Clip
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.prelu import PRelu
from bitplane.export.nodes.relu import Relu
from bitplane.export.read.construction import Value
from bitplane.export.read.onnx_node import OnnxNode


def relu(node: OnnxNode) -> Value:
    """`Relu`."""
    return node.add(Relu(node.name, node.x.name))


def clip(node: OnnxNode) -> Value | None:
    """`Clip` by constants; at zero alone it is a `Relu`."""
    limits = [-LARGEST, LARGEST]
    for side in (0, 1):
        if node.has(side + 1):
            if node.proto.input[side + 1] in node.context.values:
                return None
            value = node.constant(side + 1)
            if value is None or value.size != 1:
                return None
            limits[side] = float(np.clip(value.astype(np.float64).reshape(()), -LARGEST, LARGEST))
    low, high = limits
    if low == 0 and high == LARGEST:
        return relu(node)
    return node.add(Clip(node.name, node.x.name, low, high)) if low <= high else None


def prelu(node: OnnxNode) -> Value | None:
    """`PRelu` of one slope, or of one a channel."""
    x = node.x
    if node.proto.input[1] in node.context.values:
        return None
    slope = node.per_channel(node.constant(1), x)
    return None if slope is None else node.add(PRelu(node.name, x.name, slope))


def leaky_relu(node: OnnxNode) -> Value | None:
    """`LeakyRelu`."""
    shape = node.shape(node.x)
    return node.add(PRelu(node.name, node.x.name, np.full(shape[0], node.a.get("alpha", 0.01)))) if len(shape) == 3 else None


def alias(node: OnnxNode) -> Value:
    """The value itself."""
    return node.x


def cast(node: OnnxNode) -> Value | None:
    """`Cast` of pixels to floats."""
    x = node.x
    if x.name != INPUT or not node.builder.pixels or node.a.get("to") != onnx.TensorProto.FLOAT:
        return None
    channels = node.builder.input_shape[0]
    return node.add(Normalize("pixels", x.name, np.zeros(channels), np.ones(channels)))


def arithmetic(node: OnnxNode) -> Value | None:
    """`Add` of two values, or any of the four with a constant a channel."""
    first, second = (i in node.context.values for i in node.proto.input)
    if first and second:
        x, y = node.value(0), node.value(1)
        same = node.shape(x) == node.shape(y) and x.flat == y.flat
        return node.add(Add(node.name, x.name, y.name)) if node.op == "Add" and same else None
    constant, x = node.constant(1 if first else 0), node.value(0 if first else 1)
    per_channel = node.per_channel(constant, x)
    if per_channel is None or (not first and node.op == "Div"):
        return None
    one, zero = np.ones_like(per_channel), np.zeros_like(per_channel)
    factor, offset = {
        "Add": (one, per_channel),
        "Sub": (one, -per_channel) if first else (-one, per_channel),
        "Mul": (per_channel, zero),
        "Div": (1 / per_channel, zero),
    }[node.op]
    return node.builder.add(Affine(node.name, x.name, factor, offset), flat=x.flat)


OPERATORS: dict[str, Callable[[OnnxNode], Value | None]] = {
    "Relu": relu,
    "Clip": clip,
    "PRelu": prelu,
    "LeakyRelu": leaky_relu,
    "Identity": alias,
    "Dropout": alias,
    "Cast": cast,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), arithmetic),
}
