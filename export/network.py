"""A network between its source and its file: what every reader makes, every pass changes and every writer writes.

Values are real numbers in [N, C, H, W] layout ([N, K] after `Flatten`), named by strings; shapes are kept without the batch
axis. A quantized activation is a *value*, code * step, not a code, and a low-bit weight is integers * unit: the same meaning
as in QONNX. Only the packed writer turns values into integer codes.

    source                  reader              network                       writer            file
    torch module        ->  read_torch      ->  float or partly quantized
    ONNX, QONNX         ->  read_onnx       ->    | fold: Affine into Conv
                                                  | quantize: levels, steps, correction
                                                  v
                                                every Conv has its final weight
                                                                          ->  packed        ->  packed, inlined
                                                                          ->  floating      ->  dequantized
                                                                          ->  qonnx         ->  qonnx

Nodes are frozen; a pass returns a new `Network`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

Float64 = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A convolution's weight, `integers * unit` or plain floats.

    Attributes:
        floats: float64 [O, C / group, kh, kw], or None for an integer weight.
        integers: int8 of the same shape, or None for a float weight.
        unit: float64 [O], what one integer step is worth.
        levels: "binary", "ternary", "quaternary", "int8", or "float".
    """

    floats: Float64 | None
    integers: NDArray[np.int8] | None = None
    unit: Float64 | None = None
    levels: str = "float"

    @property
    def values(self) -> Float64:
        """The weight's values, float64; computed anew for an integer weight, which would take eight times its memory."""
        if self.floats is not None:
            return self.floats
        assert self.integers is not None
        assert self.unit is not None
        return self.integers * self.unit[:, None, None, None]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(O, C / group, kh, kw)."""
        stored = self.floats if self.integers is None else self.integers
        assert stored is not None
        o, c, kh, kw = stored.shape
        return o, c, kh, kw


def integer_weight(integers: NDArray[np.int8], unit: Float64, levels: str) -> Weight:
    """A weight of integers int8 [O, C, kh, kw] times `unit` float64 [O]."""
    return Weight(None, integers, unit, levels)


@dataclass(frozen=True)
class Normalize:
    """(pixel - mean) / std of uint8 pixels, mean and std float64 [C]."""

    name: str
    source: str
    mean: Float64
    std: Float64


@dataclass(frozen=True)
class Conv:
    """A convolution with bias, or a fully connected layer as one over its whole input.

    Attributes:
        name: name of the layer and of its value.
        source: what it reads.
        weight: its weight.
        bias: float64 [O].
        strides: (y, x).
        pads: (top, left, bottom, right).
        group: groups of channels.
        pad_value: value of the padding: 0, or the lower value of a `Sign`.
        dense: the source called it fully connected; a file may write it so.
    """

    name: str
    source: str
    weight: Weight
    bias: Float64
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    group: int = 1
    pad_value: float = 0.0
    dense: bool = False


@dataclass(frozen=True)
class Affine:
    """factor * x + offset, float64 [C] each: a BatchNorm that is not folded (yet)."""

    name: str
    source: str
    factor: Float64
    offset: Float64


@dataclass(frozen=True)
class Quantize:
    """step * min(max(round(x / step), low), high), ties to even; low is 0 but for signed quantizers of other tools."""

    name: str
    source: str
    step: float
    high: int
    low: int = 0


@dataclass(frozen=True)
class Sign:
    """Scale where x >= 0 (or its channel's threshold, float64 [C]), else -scale."""

    name: str
    source: str
    scale: float = 1.0
    thresholds: Float64 | None = None


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""

    name: str
    source: str


@dataclass(frozen=True)
class PRelu:
    """x where x > 0, else slope * x; slope float64 [C]."""

    name: str
    source: str
    slope: Float64


@dataclass(frozen=True)
class Add:
    """Sum of two values of one shape."""

    name: str
    source: str
    other: str


@dataclass(frozen=True)
class MaxPool:
    """Sliding maximum; padding never wins."""

    name: str
    source: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over all pixels: [C, H, W] to [C, 1, 1]."""

    name: str
    source: str


@dataclass(frozen=True)
class PadShortcut:
    """x[:, ::steps[0], ::steps[1]] between `front` and `back` zero channels."""

    name: str
    source: str
    steps: tuple[int, int]
    front: int
    back: int


@dataclass(frozen=True)
class Flatten:
    """[C, H, W] to [C * H * W]."""

    name: str
    source: str


@dataclass(frozen=True)
class Kept:
    """Any other ONNX node of one output, carried through unchanged.

    Attributes:
        name: name of its output.
        inputs: its inputs in order: values, or names in `constants`; "" for one left out.
        proto: operator and attributes.
        constants: its constant inputs by name.
        shape: shape of its output without the batch axis.
    """

    name: str
    inputs: tuple[str, ...]
    proto: NodeProto
    constants: Mapping[str, NDArray[np.generic]]
    shape: Shape


Node = (
    Normalize
    | Conv
    | Affine
    | Quantize
    | Sign
    | Relu
    | PRelu
    | Add
    | MaxPool
    | GlobalAveragePool
    | PadShortcut
    | Flatten
    | Kept
)
QUANTIZERS = (Quantize, Sign)


def sources(node: Node) -> tuple[str, ...]:
    """Names of the values a node reads."""
    if isinstance(node, Kept):
        return tuple(i for i in node.inputs if i and i not in node.constants)
    return (node.source, node.other) if isinstance(node, Add) else (node.source,)


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

    def with_nodes(self, nodes: tuple[Node, ...] | list[Node]) -> "Network":
        """The same network with other nodes; its shapes are inferred anew."""
        return make_network(self.name, nodes, self.input_shape, self.pixels, self.output)

    def producers(self) -> dict[str, Node]:
        """Every node by the name of its value."""
        return {n.name: n for n in self.nodes}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        out: dict[str, list[Node]] = {"input": [], **{n.name: [] for n in self.nodes}}
        for node in self.nodes:
            for name in sources(node):
                out[name].append(node)
        return out

    @property
    def classes(self) -> int:
        """Elements of the result of one image."""
        return int(np.prod(self.shapes[self.output]))


INPUT = "input"


def make_network(
    name: str, nodes: tuple[Node, ...] | list[Node], input_shape: tuple[int, int, int], pixels: bool, output: str
) -> Network:
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
    shape = _shape(node, shapes)
    if min(shape, default=1) < 1:
        raise ValueError(f"{node.name}: its input {list(shapes[sources(node)[0]])} is too small")
    return shape


def _shape(node: Node, shapes: Mapping[str, Shape]) -> Shape:
    if isinstance(node, Kept):
        return node.shape
    shape = shapes[node.source]
    if isinstance(node, Conv | MaxPool | GlobalAveragePool | PadShortcut | Normalize) and len(shape) != 3:
        raise ValueError(f"{node.name}: reads a value of shape {list(shape)}, expected [C, H, W]")
    if isinstance(node, Conv):
        o, c, kh, kw = node.weight.shape
        if shape[0] != c * node.group:
            raise ValueError(f"{node.name}: reads {shape[0]} channels, its weight takes {c * node.group}")
        return o, *_window(shape, (kh, kw), node.strides, node.pads)
    if isinstance(node, MaxPool):
        return shape[0], *_window(shape, node.kernel, node.strides, node.pads)
    if isinstance(node, GlobalAveragePool):
        return shape[0], 1, 1
    if isinstance(node, PadShortcut):
        return node.front + shape[0] + node.back, -(-shape[1] // node.steps[0]), -(-shape[2] // node.steps[1])
    if isinstance(node, Flatten):
        return (int(np.prod(shape)),)
    if isinstance(node, Add) and shapes[node.other] != shape:
        raise ValueError(f"{node.name}: adds shapes {list(shape)} and {list(shapes[node.other])}, expected equal ones")
    return shape


def _window(
    shape: Shape, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> tuple[int, int]:
    height, width = ((shape[i + 1] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1))
    return height, width
