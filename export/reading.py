"""What both readers share: a network under construction, where flattened values stand for the values they came from.

A fully connected layer is read as a convolution over its whole input, so `Flatten` only appears in the network where an
operator that is not understood, or the result, needs a value [N, K].
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bitplane.export.errors import ExportError
from bitplane.export.network import (
    INPUT,
    Conv,
    Flatten,
    Float64,
    Kept,
    Network,
    Node,
    Normalize,
    PadShortcut,
    Shape,
    Weight,
    infer_shape,
    make_network,
    sources,
)

Normalization = tuple[Sequence[float] | float, Sequence[float] | float]
"""Mean and standard deviation in pixels, one for all channels or one a channel."""


class Reading:
    """Collects nodes; a value is known by the name that `add` returned.

    Attributes:
        label: what to call the source in messages.
        nodes: so far.
        shapes: shape of every value without the batch axis.
        flat: values that the source sees as [N, K] but that are kept as [N, C, H, W].
    """

    def __init__(self, label: str, input_shape: tuple[int, int, int], *, pixels: bool) -> None:
        self.label = label
        self.input_shape, self.pixels = input_shape, pixels
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.flat: set[str] = set()

    def unique(self, name: str) -> str:
        """`name`, with a number if it is taken."""
        out, count = name, 1
        while out in self.shapes:
            count += 1
            out = f"{name}_{count}"
        return out

    def add(self, node: Node) -> str:
        """Append a node under a free name and return that name.

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
        if not isinstance(node, Kept | Flatten) and getattr(node, "source", "") in self.flat:
            self.flat.add(node.name)
        return node.name

    def normalize(self, normalize: Normalization) -> str:
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

    def dense(self, name: str, source: str, weight: Float64, bias: Float64) -> str:
        """A fully connected layer, weight [O, K], on a flattened value or on one of 1x1 pixels."""
        shape = self.shapes[source]
        if len(shape) != 3 or weight.shape[1] != int(np.prod(shape)):
            raise ExportError(f"{self.label}: {name} takes {weight.shape[1]} features, its input has shape {list(shape)}")
        out = self.add(Conv(name, source, Weight(weight.reshape(len(weight), *shape)), bias, dense=True))
        self.flat.add(out)
        return out

    def pad_shortcut(self, name: str, source: str, steps: tuple[int, int], front: int, back: int) -> str:
        """Subsample and append zero channels; joins a subsampling with the padding that follows it."""
        last = self.nodes[-1] if self.nodes else None
        if isinstance(last, PadShortcut) and last.name == source and last.front == last.back == 0 and steps == (1, 1):
            self.nodes.pop()
            del self.shapes[last.name]
            return self.add(replace(last, front=front, back=back))
        return self.add(PadShortcut(name, source, steps, front, back))

    def spread(self, value: str) -> str:
        """The value as the source sees it: flattened where the source flattened it."""
        return self.add(Flatten(f"{value}.flatten", value)) if value in self.flat else value

    def network(self, output: str) -> Network:
        """The finished network; nodes that nothing needs are left out."""
        output = self.spread(output)
        if len(self.shapes[output]) == 3 and self.shapes[output][1:] == (1, 1):
            output = self.add(Flatten(f"{output}.flatten", output))
        network = make_network(self.label, self.nodes, self.input_shape, self.pixels, output)
        return prune(network)


def prune(network: Network) -> Network:
    """The network without nodes that its result does not need."""
    needed = {network.output}
    kept: list[Node] = []
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(sources(node))
            kept.append(node)
    return network.with_nodes(kept[::-1])


def pair(value: Any) -> tuple[int, int]:
    """An int or a pair of ints as a pair."""
    y, x = (value, value) if isinstance(value, int) else (int(v) for v in value)
    return y, x
