"""A node of an ONNX model, as the readers of operators see it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bitplane.export.errors import ExportError
from bitplane.export.network import Float64, Node, Shape
from bitplane.export.read.construction import NetworkBuilder, Value
from bitplane.export.read.onnx_constants import Constants
from bitplane.export.read.onnx_sizes import BATCH


@dataclass
class Context:
    """What is known of the model so far.

    Attributes:
        label: what to call it in messages.
        graph: its graph.
        constants: its constants.
        builder: collects what it is read as.
        batch: the batch size that is written into the model; 0 if it is open.
        values: the value of every name that depends on the input.
        padded: result of a Pad in front of convolutions to what it pads, its pads and their value.
        taps: quantizer of the network to the name of its value in the model.
    """

    label: str
    graph: onnx.GraphProto
    constants: Constants
    builder: NetworkBuilder
    batch: int = 0
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    padded: dict[str, tuple[Value, tuple[int, int, int, int], float]] = field(
        default_factory=dict[str, tuple[Value, tuple[int, int, int, int], float]]
    )
    taps: dict[str, str] = field(default_factory=dict[str, str])


class OnnxNode:
    """A node that reads at least one value.

    Attributes:
        proto: the node.
        context: what is known of its model.
        a: its attributes.
    """

    def __init__(self, proto: onnx.NodeProto, context: Context) -> None:
        self.proto, self.context = proto, context
        self.constants, self.builder = context.constants, context.builder
        self.a: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    @property
    def op(self) -> str:
        """Its operator."""
        return self.proto.op_type

    @property
    def name(self) -> str:
        """What to call it: after its weight where that carries the layer's name, as exporters write it."""
        node = self.proto
        if self.op in ("Conv", "Gemm", "MatMul") and len(node.input) > 1 and node.input[1].endswith(".weight"):
            return node.input[1].removesuffix(".weight")
        return node.name or node.output[0]

    def has(self, index: int) -> bool:
        """Whether the input is given."""
        return len(self.proto.input) > index and bool(self.proto.input[index])

    def value(self, index: int = 0) -> Value:
        """The value of an input.

        Raises:
            ExportError: it is a constant.
        """
        name = self.proto.input[index]
        if name in self.context.padded:
            raise ExportError(f"{self.context.label}: a Pad in space is only supported in front of a convolution")
        if name not in self.context.values:
            raise ExportError(f"{self.context.label}: '{name}' is a constant where a value is expected")
        return self.context.values[name]

    @property
    def x(self) -> Value:
        """The value of its first input."""
        return self.value(0)

    def shape(self, value: Value) -> Shape:
        """Shape of a value in the network, without the batch axis."""
        return self.builder.shapes[value.name]

    def constant(self, index: int) -> NDArray[Any]:
        """A constant input.

        Raises:
            ExportError: it is none.
        """
        return self.constants.array(self.proto.input[index])

    def scalar(self, index: int) -> float:
        """A constant input of one element.

        Raises:
            ExportError: it has more, or is no constant.
        """
        return self.constants.scalar(self.proto.input[index], self.proto)

    def integers(self, index: int, attribute: str, default: list[int] | None = None) -> list[int]:
        """Integers that newer operator sets take as an input and older ones as an attribute."""
        if self.has(index):
            return [int(i) for i in self.constant(index).reshape(-1)]
        return [int(i) for i in self.a.get(attribute, default or [])]

    def sizes(self, index: int) -> list[Any]:
        """A constant input of sizes in the order of a value's axes; the batch size is `BATCH`, also where a file fixes it."""
        name = self.proto.input[index]
        sizes = self.constants.sizes.get(name)
        constant = self.constant(index) if sizes is None else sizes
        found: list[Any] = [i if i is BATCH else int(i) for i in constant.reshape(-1)]
        if found and self.context.batch and found[0] == self.context.batch:
            found[0] = BATCH
        return found

    def kept_constant(self, index: int) -> NDArray[Any]:
        """A constant input as an operator that is kept has it, which must not depend on the batch size.

        Raises:
            ExportError: it does.
        """
        if self.op not in ("Reshape", "Expand") or index != 1:
            return self.constant(index)
        sizes = self.sizes(index)
        if any(s is BATCH for s in sizes[1:]):
            raise self.refuse(f"computes its shape {sizes} with the batch size; export it with plain sizes")
        same = 0 if self.op == "Reshape" else 1  # what leaves an axis as it is
        return np.asarray([same if s is BATCH else s for s in sizes], np.int64)

    def per_channel(self, constant: NDArray[Any], x: Value) -> Float64 | None:
        """A constant that means one number a channel of `x`, float64 [C]; None if it means something else."""
        shape = self.shape(x)
        channels = shape[0] if len(shape) == 3 else 0
        if constant.ndim > len(self.builder.seen_shape(x)) + 1:
            return None  # the result has more axes
        if constant.size == 1:
            return np.full(channels, float(constant.reshape(()))) if channels else None
        # A flattened value has its channels last, any other third from the end.
        axis = constant.ndim - (1 if x.flat and shape[1:] == (1, 1) else 3)
        if not channels or axis < 0 or constant.shape[axis] != channels or constant.size != channels:
            return None
        return constant.reshape(-1).astype(np.float64)

    def window_pads(self, kernel: Sequence[int], strides: Sequence[int]) -> tuple[int, int, int, int]:
        """Padding (top, left, bottom, right) of a sliding window over the first input, `auto_pad` included."""
        auto = self.a.get("auto_pad", b"NOTSET")
        if auto in (b"NOTSET", b""):
            top, left, bottom, right = self.a.get("pads", (0, 0, 0, 0))
            return top, left, bottom, right
        if auto == b"VALID":
            return 0, 0, 0, 0
        # Output sizes are ceil(size / stride); an odd pixel goes behind in SAME_UPPER, in front in SAME_LOWER.
        sizes = self.shape(self.x)[1:]
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, behind = (small, large) if auto == b"SAME_UPPER" else (large, small)
        return before[0], before[1], behind[0], behind[1]

    def add(self, node: Node) -> Value:
        """Append a node whose value the source sees as it sees the first input, flattened or not."""
        return self.builder.add(node, flat=self.x.flat)

    def refuse(self, what: str) -> ExportError:
        """An error that names the node."""
        return ExportError(f"{self.context.label}: node '{self.proto.name}' ({self.op}): {what}")
