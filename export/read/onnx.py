"""A float ONNX or a QONNX model to a `Network`.

What is understood becomes a node of the network; every other operator of one output is kept as it is. Constants are folded,
within bounds, through a short list of operators. QONNX (https://github.com/fastmachinelearning/qonnx) adds `Quant` and
`BipolarQuant` of domain `qonnx.custom_op.general`: on a constant they make an integer weight, elsewhere a quantizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from bitplane.export.errors import ExportError
from bitplane.export.network import INPUT, Network
from bitplane.export.qonnx import QONNX_DOMAINS
from bitplane.export.read import onnx_elementwise, onnx_layers, onnx_shapes, qonnx
from bitplane.export.read.construction import NetworkBuilder, Normalization, Value
from bitplane.export.read.onnx_keep import keep, split
from bitplane.export.read.onnx_model import Model, open_model
from bitplane.export.read.onnx_node import Context, OnnxNode
from bitplane.export.read.onnx_sizes import of_shape

Reader = Callable[[OnnxNode], Value | None]

STANDARD: dict[str, Reader] = {**onnx_layers.OPERATORS, **onnx_elementwise.OPERATORS, **onnx_shapes.OPERATORS}
"""Operator of ONNX's own domain to its reader, which returns None for a form of it that is not understood."""


@dataclass(frozen=True)
class OnnxReading:
    """A model as read.

    Attributes:
        network: what it is.
        taps: quantizers of the network with the names of their values in the model.
    """

    network: Network
    taps: Mapping[str, str]


def read_onnx(
    model: onnx.ModelProto,
    label: str,
    input_shape: tuple[int, int, int] | None = None,
    normalize: Normalization | None = None,
) -> OnnxReading:
    """Read a model.

    Args:
        model: the model, its tensors in memory.
        label: what to call it in messages.
        input_shape: (C, H, W), where the file leaves sizes open.
        normalize: mean and standard deviation in pixels: the network reads uint8 pixels and gives (pixel - mean) / std to the
            model, which takes floats.

    Raises:
        ExportError: the model is not one of images, has functions of its own, or uses what cannot be kept.
    """
    opened = open_model(model, label, input_shape)
    if opened.pixels and normalize is not None:
        raise ExportError(f"{label}: takes uint8 pixels already; leave the normalization out")
    builder = NetworkBuilder(label, opened.input_shape, pixels=opened.pixels or normalize is not None)
    graph = opened.model.graph
    context = Context(label, graph, opened.constants, builder, opened.batch)
    context.values[opened.input_name] = Value(INPUT) if normalize is None else builder.normalize(normalize)
    for node in graph.node:
        try:
            _read_node(node, context, opened)
        except (KeyError, IndexError, ValueError, TypeError) as e:
            raise ExportError(f"{label}: node '{node.name}' ({node.op_type}) cannot be read ({e!r}); check the file") from e
    name = graph.output[0].name
    if name not in context.values:
        raise ExportError(f"{label}: output '{name}' does not depend on the input")
    return OnnxReading(builder.network(context.values[name]), context.taps)


def _read_node(proto: onnx.NodeProto, context: Context, opened: Model) -> None:
    if all(i in context.constants for i in proto.input if i):
        context.constants.fold(proto)
        return
    node = OnnxNode(proto, context)
    if proto.op_type == "Shape" and proto.domain in ("", "ai.onnx"):
        context.constants.keep_sizes(proto.output[0], of_shape(node.builder.seen_shape(node.x), node.a))
        return
    if proto.op_type == "Split" and proto.domain in ("", "ai.onnx"):
        for part in split(node):
            context.values[part.proto.output[0]] = keep(part, opened.opset)
        return
    table = qonnx.OPERATORS if proto.domain in QONNX_DOMAINS else STANDARD if proto.domain in ("", "ai.onnx") else {}
    read = table.get(proto.op_type)
    out = read(node) if read else None
    context.values[proto.output[0]] = keep(node, opened.opset) if out is None else out
