"""The ONNX graph of a file under construction: nodes in topological order, and initializers."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bitplane.export.network import INPUT, Float64, Network, Node
from bitplane.format import names as fmt
from bitplane.format.functions import function

Attribute = int | float | str | list[int]


@dataclass(frozen=True)
class Written:
    """How a convolution was written: its operator, and why it computes in floating point ("" if it does not)."""

    operator: str
    reason: str = ""


class GraphBuilder:
    """Nodes and initializers of a graph under construction, and what a node that is written may ask about its network.

    Attributes:
        nodes: the nodes in topological order; a node's single output has the node's name.
        initializers: the constants, in order of use.
        names: file name of every value of the network written so far.
        codes: file name of the codes of every quantizer whose codes are written.
        written: how every convolution was written.
        gemm: name of the fully connected layer that ends the network as `Gemm` on [N, C]; "" if none does.
    """

    def __init__(self, network: Network, gemm: str = "") -> None:
        self.network, self.gemm = network, gemm
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: dict[str, str] = {INPUT: fmt.INPUT_NAME}
        self.codes: dict[str, str] = {}
        self.written: dict[str, Written] = {}
        self._known: set[str] = set()
        self._producers, self._readers = network.producers(), network.readers()

    def producer(self, value: str) -> Node | None:
        """The node that makes a value; None of the input."""
        return self._producers.get(value)

    def readers(self, value: str) -> list[Node]:
        """The nodes that read a value."""
        return self._readers[value]

    def needs_floats(self, node: Node) -> bool:
        """Whether the packed form needs a quantizer's (or the pixels') value as floats: not all its readers take codes."""
        return node.name == self.network.output or not all(r.reads_codes(node) for r in self.readers(node.name))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Store `value` as an initializer, once, and return its name."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """Store a float32 scalar."""
        return self.constant(name, np.asarray(value, np.float32))

    def channels(self, name: str, values: Float64) -> str:
        """Store one float32 a channel, [C, 1, 1]."""
        return self.constant(name, values.astype(np.float32).reshape(-1, 1, 1))

    def node(self, op: str, name: str, inputs: list[str], domain: str = "", **attributes: Attribute) -> str:
        """Append a node and return its output's name."""
        node = helper.make_node(op, inputs, [name], name=name, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def model(self, *, pixels: bool, opsets: Set[tuple[str, int]] = frozenset()) -> ModelProto:
        """The model around the nodes, whose last result gets the name `logits`; functions of domain `bitplane` come along.

        Args:
            pixels: whether the file's input is uint8.
            opsets: domains beside ONNX's and ours, with their versions.
        """
        final = self.names[self.network.output]
        # A layer of the result's name whose value is flattened yet gives its name to the flattened one.
        renamed = {fmt.OUTPUT_NAME: f"{fmt.OUTPUT_NAME}.value"} | {final: fmt.OUTPUT_NAME}
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(n, n) for n in names]
        shape = self.network.shapes[self.network.output]
        kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            self.network.name,
            [helper.make_tensor_value_info(fmt.INPUT_NAME, kind, [fmt.BATCH_AXIS, *self.network.input_shape])],
            [helper.make_tensor_value_info(fmt.OUTPUT_NAME, TensorProto.FLOAT, [fmt.BATCH_AXIS, *shape])],
            self.initializers,
        )
        operators = list(dict.fromkeys(n.op_type for n in self.nodes if n.domain == fmt.DOMAIN))
        imports = [helper.make_opsetid("", fmt.OPSET_VERSION), *(helper.make_opsetid(*o) for o in sorted(opsets))]
        if operators:
            imports.append(helper.make_opsetid(fmt.DOMAIN, fmt.DOMAIN_VERSION))
        return helper.make_model(
            graph,
            functions=[function(op) for op in operators],
            opset_imports=imports,
            ir_version=fmt.IR_VERSION,
            producer_name="bitplane",
        )
