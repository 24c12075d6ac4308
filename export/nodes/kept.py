"""Kept: any other operator of ONNX, carried from the source into the file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Node, Shape
from bitplane.format import names as fmt

MOVES = ("Concat", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "AveragePool", "MaxPool", "ReduceMean")
"""Operators whose result is never less than the least of their input."""
NON_NEGATIVE = ("Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Abs")
"""Operators whose result is never negative."""


@dataclass(frozen=True)
class Kept(Node):
    """Any other ONNX node of one output, carried through unchanged.

    Attributes:
        name: name of its output.
        inputs: its inputs in order: values, or names in `constants`; "" for one left out.
        proto: operator and attributes.
        constants: its constant inputs by name.
        output_shape: shape of its output without the batch axis.
    """

    inputs: tuple[str, ...]
    proto: NodeProto
    constants: Mapping[str, NDArray[np.generic]]
    output_shape: Shape

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return tuple(i for i in self.inputs if i and i not in self.constants)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same node reading its sources under their new names."""
        return replace(self, inputs=tuple(names.get(i, i) for i in self.inputs))

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """What the source's shape inference says."""
        return self.output_shape

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value, by onnxruntime: onnx's reference implementation takes minutes for a pool."""
        feeds = dict(zip(self.sources, (np.ascontiguousarray(i.numpy()) for i in inputs), strict=True))
        arrays: dict[str, NDArray[np.generic]] = {
            n: feeds[n] if n in feeds else np.asarray(self.constants[n]) for n in dict.fromkeys(self.inputs) if n
        }
        proto = onnx.NodeProto()
        proto.CopyFrom(self.proto)
        del proto.input[:], proto.output[:]
        proto.input.extend(self.inputs)
        proto.output.append("y")
        kinds = {n: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in arrays.items()}
        graph = onnx.helper.make_graph(
            [proto],
            "node",
            [onnx.helper.make_tensor_value_info(n, kinds[n], arrays[n].shape) for n in feeds],
            [onnx.ValueInfoProto(name="y")],
            [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in feeds],
        )
        opsets = [onnx.helper.make_opsetid("", fmt.OPSET_VERSION)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=fmt.IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (result,) = session.run(["y"], feeds)
        return torch.from_numpy(np.array(result))

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where it moves or averages values that are, or makes no others."""
        if self.proto.op_type == "Clip":
            low = self.constants.get(self.inputs[1]) if len(self.inputs) > 1 else None
            return low is not None and bool((low.astype(np.float64) >= 0).all())
        return self.proto.op_type in NON_NEGATIVE or (self.proto.op_type in MOVES and all(known(s) for s in self.sources))

    def write(self, graph: GraphBuilder) -> str:
        """As the source had it."""
        proto = NodeProto()
        proto.CopyFrom(self.proto)
        del proto.input[:], proto.output[:]
        for name in self.inputs:
            constant = graph.constant(name, self.constants[name]) if name in self.constants else ""
            proto.input.append(constant or graph.names.get(name, ""))
        proto.output.append(self.name)
        proto.name = self.name
        graph.nodes.append(proto)
        return self.name
