"""A network under construction, for both readers.

A fully connected layer is read as a convolution over its whole input, and flattening as another view of the same value, so
`Flatten` only appears in the network where an operator that is not understood, or the result, needs a value [N, K].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitplane.export.errors import ExportError
from bitplane.export.network import INPUT, Float64, Network, Node, Shape, infer_shape, make_network
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.flatten import Flatten
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.weight import Weight

Normalization = tuple[Sequence[float] | float, Sequence[float] | float]
"""Mean and standard deviation in pixels, one for all channels or one a channel."""


@dataclass(frozen=True)
class Value:
    """A value of the source.

    Attributes:
        name: of the network's value.
        flat: whether the source sees it as [N, K], where the network has [N, C, H, W].
    """

    name: str
    flat: bool = False


class NetworkBuilder:
    """Collects nodes.

    Attributes:
        label: what to call the source in messages.
        nodes: so far.
        shapes: shape of every value without the batch axis.
        kinds: ONNX's type of every value that is not float32.
    """

    def __init__(self, label: str, input_shape: tuple[int, int, int], *, pixels: bool) -> None:
        self.label = label
        self.input_shape, self.pixels = input_shape, pixels
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.kinds: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """`name`, with a number if it is taken."""
        out, count = name, 1
        while out in self.shapes:
            count += 1
            out = f"{name}_{count}"
        return out

    def add(self, node: Node, *, flat: bool = False) -> Value:
        """Append a node under a free name and return its value.

        Raises:
            ExportError: the node does not fit its input.
        """
        node = replace(node, name=self.unique(node.name))
        try:
            shape = infer_shape(node, self.shapes)
        except ValueError as e:
            raise ExportError(f"{self.label}: {e}; export a network of convolutions on images") from None
        self.nodes.append(node)
        self.shapes[node.name] = shape
        return Value(node.name, flat)

    def normalize(self, normalize: Normalization) -> Value:
        """(pixel - mean) / std of the input.

        Raises:
            ExportError: the two are not one number for all channels or one a channel, or std is not positive.
        """
        channels = self.input_shape[0]
        try:
            mean, std = (np.broadcast_to(np.asarray(v, np.float64), (channels,)) for v in normalize)
        except ValueError:
            raise ExportError(f"{self.label}: normalization {normalize} does not fit {channels} channels") from None
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ExportError(f"{self.label}: mean {mean.tolist()} must be finite, std {std.tolist()} positive and finite")
        return self.add(Normalize("pixels", INPUT, mean, std))

    def dense(self, name: str, source: Value, weight: Weight, bias: Float64) -> Value:
        """A fully connected layer, weight [O, K, 1, 1], on a flattened value or on one of 1x1 pixels.

        Raises:
            ExportError: it takes another number of features.
        """
        shape = self.shapes[source.name]
        if len(shape) != 3 or weight.shape[1] != int(np.prod(shape)):
            raise ExportError(f"{self.label}: {name} takes {weight.shape[1]} features, its input has shape {list(shape)}")
        return self.add(Conv(name, source.name, weight.reshaped(shape), bias, dense=True), flat=True)

    def seen_shape(self, value: Value) -> Shape:
        """Shape of a value as the source sees it, without the batch axis."""
        shape = self.shapes[value.name]
        return (int(np.prod(shape)),) if value.flat else shape

    def spread(self, value: Value) -> str:
        """Name of the value as the source sees it: flattened where the source flattened it."""
        return self.add(Flatten(f"{value.name}.flatten", value.name)).name if value.flat else value.name

    def network(self, output: Value) -> Network:
        """The finished network."""
        name = self.spread(output)
        if len(self.shapes[name]) == 3 and self.shapes[name][1:] == (1, 1):
            name = self.add(Flatten(f"{name}.flatten", name)).name
        return make_network(self.label, self.nodes, self.input_shape, self.pixels, name)


def pair(value: Any) -> tuple[int, int]:
    """An int or a pair of ints as a pair."""
    y, x = (value, value) if isinstance(value, int) else (int(v) for v in value)
    return y, x
