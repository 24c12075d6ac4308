"""Assemble an ONNX graph: nodes in topological order, initializers, and the two ways to write a ResNet's parts."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from bitplane.runtime import format as fmt
from bitplane.train.layers import PadShortcut, PixelInput


class Dialect(Protocol):
    """What differs between the packed file and its float twin; methods take and return the names of values."""

    def stem(self, pixels: PixelInput, conv: nn.Conv2d, bn: nn.BatchNorm2d, value: str) -> str:
        """Pixels uint8 to features: normalization, convolution and BatchNorm."""
        ...

    def quantize(self, name: str, quantizer: nn.Module, value: str) -> str:
        """Features to what a convolution reads."""
        ...

    def conv(self, name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, quantizer: nn.Module, value: str) -> str:
        """Convolution and BatchNorm on the output of `quantizer`."""
        ...

    def pad_shortcut(self, name: str, shortcut: PadShortcut, value: str) -> str:
        """Subsample in space and append zero channels."""
        ...


class GraphBuilder:
    """Nodes and initializers of a graph under construction.

    Attributes:
        nodes: the nodes in topological order; a node's single output has the node's name.
        initializers: the constants, in order of use.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Store `value` as an initializer and return its name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def node(self, op: str, name: str, inputs: list[str], domain: str = "", **attributes: int | list[int]) -> str:
        """Append a node and return its output's name."""
        node = helper.make_node(op, inputs, [name], name=name, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def low_bit_operators(self) -> list[str]:
        """The operators of domain `bitplane` in use, each once, in order of first use."""
        return list(dict.fromkeys(n.op_type for n in self.nodes if n.domain == fmt.DOMAIN))


def square_pads(conv: nn.Conv2d) -> list[int]:
    """`pads` [top, left, bottom, right] of a convolution."""
    top, left = (int(p) for p in conv.padding)
    return [top, left, top, left]


def channel_pads(shortcut: PadShortcut) -> list[int]:
    """`pads` [8] of `Pad` that appends the shortcut's zero channels."""
    return [0, 0, 0, 0, 0, shortcut.extra, 0, 0]
