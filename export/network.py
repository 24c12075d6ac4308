"""A network between its source and its file: what every reader makes, every pass changes and every writer writes.

Values are real numbers in [N, C, H, W] layout ([N, K] after `Flatten`), named by strings; shapes are kept without the batch
axis. A quantized activation is a *value*, code * step, not a code, and a low-bit weight is integers * unit: the same meaning
as in QONNX. Only the packed form turns values into integer codes.

    source                  reader              network                       writer                file
    torch module        ->  read/torch      ->  float or partly quantized
    ONNX, QONNX         ->  read/onnx       ->    | passes/fold: Affine into Conv
                                                  | passes/quantize: levels, steps, correction
                                                  v
                                                every Conv has its final weight
                                                                          ->  write/packed       ->  packed, inlined
                                                                          ->  write/dequantized  ->  dequantized
                                                                          ->  write/qonnx        ->  qonnx

A node is frozen, and its type has a file of its own in `nodes/`; a pass is a function that returns a new `Network`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from bitplane.export.graph import GraphBuilder

Float64 = NDArray[np.float64]
Shape = tuple[int, ...]

INPUT = "input"
"""Name of the network's input."""


@dataclass(frozen=True)
class Node(ABC):
    """One operation, which makes the value of its own name."""

    name: str

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names of the values it reads."""

    @abstractmethod
    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same node reading its sources under their new names."""

    @abstractmethod
    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of its value, from those of its sources, all without the batch axis.

        Raises:
            ValueError: it does not fit its sources; the message names it.
        """

    @abstractmethod
    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value, from those of its sources, in float32."""

    @abstractmethod
    def write(self, graph: "GraphBuilder") -> str:
        """Append it in standard float32 operators, as the dequantized form has it; returns its value's name in the file."""

    def write_packed(self, graph: "GraphBuilder") -> str | None:
        """Append it as the packed form has it; returns None where nothing in the file needs its value as floats."""
        return self.write(graph)

    def write_qonnx(self, graph: "GraphBuilder") -> str:
        """Append it as QONNX has it."""
        return self.write(graph)

    def evaluate_on(self, producer: "Node | None", inputs: list[Tensor]) -> Tensor:
        """Its value, where `producer` makes its first source; exact where that allows integers."""
        return self.evaluate(inputs)

    def reads_codes(self, producer: "Node | None") -> bool:
        """Whether the packed form computes it on the integer codes (or pixels) of `producer`, which makes its source."""
        return False

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Whether its value can only be zero or more; `known` tells the same of a source."""
        return False


@dataclass(frozen=True)
class Unary(Node):
    """A node that reads one value, whose shape its own has unless it says otherwise."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return (self.source,)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same node reading its sources under their new names."""
        return replace(self, source=names.get(self.source, self.source))

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of its value."""
        return inputs[0]

    def image_shape(self, inputs: Sequence[Shape]) -> tuple[int, int, int]:
        """Shape of its source, which must be [C, H, W].

        Raises:
            ValueError: it is not.
        """
        if len(inputs[0]) != 3:
            raise ValueError(f"{self.name}: reads a value of shape {list(inputs[0])}, expected [C, H, W]")
        channels, height, width = inputs[0]
        return channels, height, width


@dataclass(frozen=True)
class Network:
    """A whole network.

    Attributes:
        name: what to call it in messages and in the file.
        nodes: in topological order; each makes the value of its own name.
        input_shape: (C, H, W) of the input, whose name is "input".
        pixels: whether the input is uint8 pixels; otherwise it is float32.
        output: name of the value that is the network's result.
        shapes: shape of every value without the batch axis.
    """

    name: str
    nodes: tuple[Node, ...]
    input_shape: tuple[int, int, int]
    pixels: bool
    output: str
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])

    def with_nodes(self, nodes: Sequence[Node]) -> "Network":
        """The same network with other nodes; its shapes are inferred anew."""
        return make_network(self.name, nodes, self.input_shape, self.pixels, self.output)

    def producers(self) -> dict[str, Node]:
        """Every node by the name of its value."""
        return {n.name: n for n in self.nodes}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        out: dict[str, list[Node]] = {INPUT: [], **{n.name: [] for n in self.nodes}}
        for node in self.nodes:
            for name in node.sources:
                out[name].append(node)
        return out

    @property
    def classes(self) -> int:
        """Elements of the result of one image."""
        return int(np.prod(self.shapes[self.output]))


def make_network(name: str, nodes: Sequence[Node], input_shape: tuple[int, int, int], pixels: bool, output: str) -> Network:
    """A network with the shapes of its values.

    Raises:
        ValueError: a node does not fit its input; the message names it.
    """
    shapes: dict[str, Shape] = {INPUT: tuple(input_shape)}
    for node in nodes:
        shapes[node.name] = infer_shape(node, shapes)
    return Network(name, tuple(nodes), input_shape, pixels, output, shapes)


def infer_shape(node: Node, shapes: Mapping[str, Shape]) -> Shape:
    """Shape of a node's value, without the batch axis.

    Raises:
        ValueError: the node does not fit its input; the message names it.
    """
    shape = node.shape([shapes[s] for s in node.sources])
    if min(shape, default=1) < 1:
        raise ValueError(f"{node.name}: its input {list(shapes[node.sources[0]])} is too small")
    return shape


def window(shape: Shape, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]) -> tuple[int, int]:
    """Height and width of what a sliding window makes of [C, H, W]; pads are (top, left, bottom, right)."""
    height, width = ((shape[i + 1] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1))
    return height, width
