"""Assemble an ONNX graph: nodes in topological order, and initializers."""

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bitplane.export.network import INPUT, Flatten, Float64, Kept, MaxPool, Network, PadShortcut
from bitplane.format import names as fmt
from bitplane.format.functions import function

Attribute = int | float | str | list[int]


class GraphBuilder:
    """Nodes and initializers of a graph under construction.

    Attributes:
        nodes: the nodes in topological order; a node's single output has the node's name.
        initializers: the constants, in order of use.
        names: file name of every value of the network written so far.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: dict[str, str] = {INPUT: fmt.INPUT_NAME}
        self._known: set[str] = set()

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Store `value` as an initializer, once, and return its name."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def channels(self, name: str, values: Float64) -> str:
        """Store one float32 a channel, [C, 1, 1]."""
        return self.constant(name, values.astype(np.float32).reshape(-1, 1, 1))

    def node(self, op: str, name: str, inputs: list[str], domain: str = "", **attributes: Attribute) -> str:
        """Append a node and return its output's name."""
        node = helper.make_node(op, inputs, [name], name=name, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def max_pool(self, node: MaxPool, value: str) -> str:
        """`MaxPool`."""
        return self.node(
            "MaxPool", node.name, [value], kernel_shape=list(node.kernel), strides=list(node.strides), pads=list(node.pads)
        )

    def flatten(self, node: Flatten, value: str) -> str:
        """`Flatten`."""
        return self.node("Flatten", node.name, [value], axis=1)

    def keep(self, node: Kept) -> str:
        """An operator as the source had it."""
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        del proto.input[:], proto.output[:]
        for name in node.inputs:
            proto.input.append(
                self.constant(name, node.constants[name]) if name in node.constants else self.names.get(name, "")
            )
        proto.output.append(node.name)
        proto.name = node.name
        self.nodes.append(proto)
        return node.name

    def model(self, network: Network, *, opsets: tuple[tuple[str, int], ...] = ()) -> ModelProto:
        """The model around the nodes, whose last result gets the name `logits`; functions of domain `bitplane` come along."""
        final = self.names[network.output]
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [fmt.OUTPUT_NAME if n == final else n for n in names]
        shape = network.shapes[network.output]
        kind = TensorProto.UINT8 if network.pixels else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            network.name,
            [helper.make_tensor_value_info(fmt.INPUT_NAME, kind, [fmt.BATCH_AXIS, *network.input_shape])],
            [helper.make_tensor_value_info(fmt.OUTPUT_NAME, TensorProto.FLOAT, [fmt.BATCH_AXIS, *shape])],
            self.initializers,
        )
        operators = list(dict.fromkeys(n.op_type for n in self.nodes if n.domain == fmt.DOMAIN))
        imports = [helper.make_opsetid("", fmt.OPSET_VERSION), *(helper.make_opsetid(*o) for o in opsets)]
        if operators:
            imports.append(helper.make_opsetid(fmt.DOMAIN, fmt.DOMAIN_VERSION))
        return helper.make_model(
            graph,
            functions=[function(op) for op in operators],
            opset_imports=imports,
            ir_version=fmt.IR_VERSION,
            producer_name="bitplane",
        )


def channel_pads(shortcut: PadShortcut) -> list[int]:
    """`pads` [8] of `Pad` that puts the shortcut's zero channels around."""
    return [0, shortcut.front, 0, 0, 0, shortcut.back, 0, 0]


def scalar(value: float) -> NDArray[np.float32]:
    """A float32 scalar."""
    return np.asarray(value, np.float32)
