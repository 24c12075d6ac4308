"""The dequantized file: the same network in standard float32 operators, for everything that knows nothing of `bitplane`.

Quantizers become Div, Round, Clip, Mul; weights are stored as the values they have. A float network is written so too: the twin
that other engines are measured on.
"""

from collections.abc import Container

import numpy as np
from onnx import ModelProto, TensorProto

from bitplane.export.builder import GraphBuilder, channel_pads, scalar
from bitplane.export.errors import ExportError
from bitplane.export.network import (
    Add,
    Affine,
    Conv,
    Flatten,
    GlobalAveragePool,
    Kept,
    MaxPool,
    Network,
    Node,
    Normalize,
    PadShortcut,
    PRelu,
    Quantize,
    Relu,
    Sign,
)


def write_dequantized(network: Network) -> ModelProto:
    """Write a network in standard float32 operators (opset 18), without metadata."""
    builder = GraphBuilder()
    ends = _ending_gemm(network)
    for node in network.nodes:
        builder.names[node.name] = write_node(builder, node, ends)
    return builder.model(network)


def _ending_gemm(network: Network) -> set[str]:
    """The fully connected layer that ends the network and the `Flatten` after it."""
    last = network.producers()[network.output]
    source = network.producers().get(last.source) if isinstance(last, Flatten) else None
    is_dense = isinstance(source, Conv) and source.dense and len(network.readers()[source.name]) == 1
    return {last.name, source.name} if is_dense and source is not None else set()


def write_node(b: GraphBuilder, node: Node, ends: Container[str] = (), weight: str | None = None) -> str:
    """Append a node and return its value's name in the file.

    Args:
        b: where to.
        node: the node.
        ends: the fully connected layer that is written as `Gemm`, and the `Flatten` after it.
        weight: name of a convolution's weight, where it is not to be a float initializer.

    Raises:
        ExportError: the node is a BatchNorm that is not folded.
    """
    if isinstance(node, Kept):
        return b.keep(node)
    value = b.names[node.source]
    match node:
        case Normalize():
            mean, std = (v.astype(np.float32).reshape(-1, 1, 1) for v in (node.mean, node.std))
            value = b.node("Cast", f"{node.name}.cast", [value], to=int(TensorProto.FLOAT))
            value = b.node("Sub", f"{node.name}.sub", [value, b.constant(f"{node.name}.mean", mean)])
            return b.node("Div", node.name, [value, b.constant(f"{node.name}.std", std)])
        case Conv():
            return _gemm(b, node, value) if node.name in ends else _conv(b, node, value, weight)
        case Quantize():
            step = b.constant(f"{node.name}.step", scalar(node.step))
            low, high = (b.constant(f"{node.name}.{k}", scalar(v)) for k, v in (("low", node.low), ("high", node.high)))
            value = b.node("Div", f"{node.name}.div", [value, step])
            value = b.node("Round", f"{node.name}.round", [value])
            value = b.node("Clip", f"{node.name}.clip", [value, low, high])
            return b.node("Mul", node.name, [value, step])
        case Sign():
            thresholds = (
                b.constant(f"{node.name}.zero", scalar(0))
                if node.thresholds is None
                else b.channels(f"{node.name}.thresholds", node.thresholds)
            )
            high, low = (b.constant(f"{node.name}.{k}", scalar(v)) for k, v in (("high", node.scale), ("low", -node.scale)))
            value = b.node("GreaterOrEqual", f"{node.name}.reached", [value, thresholds])
            return b.node("Where", node.name, [value, high, low])
        case Relu():
            return b.node("Relu", node.name, [value])
        case PRelu():
            return b.node("PRelu", node.name, [value, b.channels(f"{node.name}.slope", node.slope)])
        case Add():
            return b.node("Add", node.name, [value, b.names[node.other]])
        case MaxPool():
            return b.max_pool(node, value)
        case GlobalAveragePool():
            return b.node("GlobalAveragePool", node.name, [value])
        case PadShortcut():
            return _pad_shortcut(b, node, value)
        case Flatten():
            return value if node.name in ends else b.flatten(node, value)
        case Affine():
            raise ExportError(f"{node.name}: an affine map is left unfolded; please report this defect")


def _conv(b: GraphBuilder, conv: Conv, value: str, weight: str | None) -> str:
    pads = list(conv.pads)
    if any(pads) and conv.pad_value != 0:
        top, left, bottom, right = pads
        sizes = b.constant(f"{conv.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        fill = b.constant(f"{conv.name}.pad_value", scalar(conv.pad_value))
        value, pads = b.node("Pad", f"{conv.name}.pad", [value, sizes, fill]), [0, 0, 0, 0]
    weight = weight or b.constant(f"{conv.name}.weight", conv.weight.values.astype(np.float32))
    bias = b.constant(f"{conv.name}.bias", conv.bias.astype(np.float32))
    return b.node(
        "Conv",
        conv.name,
        [value, weight, bias],
        dilations=[1, 1],
        group=conv.group,
        kernel_shape=list(conv.weight.shape[2:]),
        pads=pads,
        strides=list(conv.strides),
    )


def _gemm(b: GraphBuilder, conv: Conv, value: str) -> str:
    weight = b.constant(f"{conv.name}.weight", conv.weight.values.reshape(len(conv.bias), -1).astype(np.float32))
    bias = b.constant(f"{conv.name}.bias", conv.bias.astype(np.float32))
    value = b.node("Flatten", f"{conv.name}.input", [value], axis=1)
    return b.node("Gemm", conv.name, [value, weight, bias], transB=1)


def _pad_shortcut(b: GraphBuilder, node: PadShortcut, value: str) -> str:
    if node.steps != (1, 1):
        starts = b.constant(f"{node.name}.starts", np.zeros(2, np.int64))
        ends = b.constant(f"{node.name}.ends", np.full(2, np.iinfo(np.int64).max))
        axes = b.constant(f"{node.name}.axes", np.asarray([2, 3], np.int64))
        steps = b.constant(f"{node.name}.steps", np.asarray(node.steps, np.int64))
        name = f"{node.name}.slice" if node.front or node.back else node.name
        value = b.node("Slice", name, [value, starts, ends, axes, steps])
    if not (node.front or node.back):
        return value
    pads = b.constant(f"{node.name}.pads", np.asarray(channel_pads(node), np.int64))
    return b.node("Pad", node.name, [value, pads])
