"""A float ONNX or a QONNX model to a `Network`.

What is understood becomes a node of the network; every other operator of one output is kept as it is. Constants are folded,
within bounds, through a short list of operators. QONNX (https://github.com/fastmachinelearning/qonnx) adds `Quant` and
`BipolarQuant` of domain `qonnx.custom_op.general`: on a constant they make an integer weight, elsewhere a quantizer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from bitplane.export.errors import ExportError
from bitplane.export.network import INPUT, Network
from bitplane.export.nodes.kept import Kept
from bitplane.export.qonnx import QONNX_DOMAINS
from bitplane.export.read import onnx_elementwise, onnx_layers, onnx_shapes, qonnx
from bitplane.export.read.construction import NetworkBuilder, Normalization, Value
from bitplane.export.read.onnx_model import Model, open_model
from bitplane.export.read.onnx_node import Context, OnnxNode
from bitplane.export.read.onnx_sizes import of_shape
from bitplane.format import names as fmt
from bitplane.format.limits import MAX_ELEMENTS

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
    table = qonnx.OPERATORS if proto.domain in QONNX_DOMAINS else STANDARD if proto.domain in ("", "ai.onnx") else {}
    read = table.get(proto.op_type)
    out = read(node) if read else None
    context.values[proto.output[0]] = _keep(node, opened) if out is None else out


def _keep(node: OnnxNode, opened: Model) -> Value:
    proto, context = node.proto, node.context
    if proto.domain not in ("", "ai.onnx") or len(proto.output) != 1:
        domain = f"{proto.domain}." if proto.domain else ""
        raise ExportError(
            f"{context.label}: node '{proto.name}' ({domain}{proto.op_type}) is not supported; supported are standard operators"
            " of one output, and QONNX's Quant and BipolarQuant"
        )
    if opened.opset != fmt.OPSET_VERSION and not _means_the_same(proto, opened.opset):
        raise node.refuse(f"opset {opened.opset} cannot be converted to {fmt.OPSET_VERSION}; export it with that opset")
    shape = opened.shapes.get(proto.output[0], ())
    if math.prod(shape) > MAX_ELEMENTS:
        raise node.refuse(f"makes a value of shape {list(shape)}, too large")
    if not shape or min(shape[1:], default=1) < 1:
        raise node.refuse("its output's shape cannot be inferred")
    constants: dict[str, NDArray[Any]] = {}
    inputs: list[str] = []
    for index, name in enumerate(proto.input):
        if not name:
            inputs.append("")
        elif name in context.values:
            inputs.append(node.builder.spread(node.value(index)))
        else:
            constants[f"{node.name}.{index}"] = node.kept_constant(index)
            inputs.append(f"{node.name}.{index}")
    return node.builder.add(Kept(node.name, tuple(inputs), proto, constants, tuple(shape[1:])))


def _means_the_same(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an operator is defined at the format's opset as it is at another one."""
    own, ours = (onnx.defs.get_schema(node.op_type, version) for version in (opset, fmt.OPSET_VERSION))
    return own.since_version == ours.since_version
