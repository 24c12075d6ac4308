"""An operator that is not understood, kept for the file as it is."""

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bitplane.export.errors import ExportError
from bitplane.export.network import Shape
from bitplane.export.nodes.kept import Kept
from bitplane.export.read.construction import Value
from bitplane.export.read.onnx_node import OnnxNode
from bitplane.format import names as fmt
from bitplane.format.limits import MAX_ELEMENTS

LONGEST_SIZES = 64
"""Most elements of a constant that may be sizes or scales, which shape inference needs to see."""


def keep(node: OnnxNode, opset: int) -> Value:
    """Keep a standard operator of one output.

    Args:
        node: the node.
        opset: version of the model's operators: the format's, unless onnx could not convert the model.

    Raises:
        ExportError: it is another one, or the shape of its value cannot be told.
    """
    proto, context = node.proto, node.context
    if proto.domain not in ("", "ai.onnx") or len([o for o in proto.output if o]) != 1:
        domain = f"{proto.domain}." if proto.domain else ""
        raise ExportError(
            f"{context.label}: node '{proto.name}' ({domain}{proto.op_type}) is not supported; supported are standard operators"
            " of one output, and QONNX's Quant and BipolarQuant"
        )
    if opset != fmt.OPSET_VERSION and not _means_the_same(proto, opset):
        raise node.refuse(f"opset {opset} cannot be converted to {fmt.OPSET_VERSION}; export it with that opset")
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
    shape, kind = _infer(node, inputs, constants)
    if math.prod(shape) > MAX_ELEMENTS:
        raise node.refuse(f"makes a value of shape {list(shape)}, too large")
    out = node.builder.add(Kept(node.name, tuple(inputs), proto, constants, shape))
    if kind != onnx.TensorProto.FLOAT:
        node.builder.kinds[out.name] = kind
    return out


def _infer(node: OnnxNode, inputs: list[str], constants: dict[str, NDArray[Any]]) -> tuple[Shape, int]:
    """Shape of its value without the batch axis, and its type, as onnx infers them from what the node reads."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:], proto.output[:]
    proto.input.extend(inputs)
    proto.output.append("y")
    sizes = {n: a for n, a in constants.items() if a.size <= LONGEST_SIZES}
    infos = [
        helper.make_tensor_value_info(n, node.builder.kinds.get(n, onnx.TensorProto.FLOAT), [1, *node.builder.shapes[n]])
        for n in dict.fromkeys(inputs)
        if n and n not in constants
    ]
    infos += [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in constants.items()
        if n not in sizes
    ]
    graph = helper.make_graph(
        [proto],
        "node",
        infos,
        [helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(a, n) for n, a in sizes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", fmt.OPSET_VERSION)], ir_version=fmt.IR_VERSION)
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output[0].type.tensor_type
    shape = tuple(d.dim_value for d in found.shape.dim)
    if not found.HasField("shape") or not shape or min(shape[1:], default=1) < 1:
        raise node.refuse("its output's shape cannot be inferred")
    return shape[1:], found.elem_type


def split(node: OnnxNode) -> list[OnnxNode]:
    """`Split` as one `Slice` an output."""
    axis, parts = int(node.a.get("axis", 0)), list(node.proto.output)
    shape = (0, *node.builder.seen_shape(node.x))
    axis %= len(shape)
    if axis == 0:
        raise node.refuse("splits the batch")
    chunk = -(-shape[axis] // len(parts))
    sizes = node.integers(1, "split") or [min(chunk, shape[axis] - i * chunk) for i in range(len(parts))]
    out: list[OnnxNode] = []
    for index, (name, size) in enumerate(zip(parts, sizes, strict=True)):
        start = sum(sizes[:index])
        bounds = {"starts": start, "ends": start + size, "axes": axis}
        names = [f"{node.name}.{index}.{key}" for key in bounds]
        node.constants.arrays.update(zip(names, (np.array([b], np.int64) for b in bounds.values()), strict=True))
        proto = helper.make_node("Slice", [node.proto.input[0], *names], [name], name=f"{node.name}.{index}")
        out.append(OnnxNode(proto, node.context))
    return out


def _means_the_same(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an operator is defined at the format's opset as it is at another one."""
    own, ours = (onnx.defs.get_schema(node.op_type, version) for version in (opset, fmt.OPSET_VERSION))
    return own.since_version == ours.since_version
