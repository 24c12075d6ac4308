"""The constants of an ONNX model: initializers, what a short list of operators makes of them, and QONNX's quantized weights."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bitplane.export.errors import ExportError
from bitplane.export.network import Float64
from bitplane.export.nodes.weight import Weight, integer_weight, smallest_levels
from bitplane.export.qonnx import QONNX_DOMAINS
from bitplane.export.read.onnx_sizes import Sizes, fold_sizes, has_batch
from bitplane.format.limits import MAX_ELEMENTS

FOLDABLE = (
    "Identity",
    "Transpose",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Concat",
    "Cast",
    "Mul",
    "Div",
    "Add",
    "Sub",
    "Neg",
    "Sqrt",
    "Gather",
    "Slice",
    "Shape",
    "ConstantOfShape",
)


class Constants:
    """Constants by name; `in` tells whether a name is one.

    Attributes:
        arrays: plain ones.
        sizes: those that depend on the batch size.
        weights: those that a `Quant` or `BipolarQuant` made; `unit` broadcasts against them.
    """

    def __init__(self, model: onnx.ModelProto, label: str) -> None:
        self.label = label
        self.opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
        self.arrays: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.weights: dict[str, Weight] = {}
        self.sizes: dict[str, Sizes] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.arrays or name in self.weights or name in self.sizes

    def keep_sizes(self, name: str, sizes: Sizes) -> None:
        """Store sizes; those that do not depend on the batch size are plain constants."""
        if has_batch(sizes):
            self.sizes[name] = sizes
        else:
            self.arrays[name] = np.asarray(sizes.tolist(), np.int64)

    def fold(self, node: onnx.NodeProto) -> None:
        """Compute a node of constants.

        Raises:
            ExportError: its operator is not folded, or its result would be too large.
        """
        output = node.output[0]
        if node.op_type == "Constant":
            (attribute,) = node.attribute
            value = helper.get_attribute_value(attribute)
            kind = np.float32 if attribute.name in ("value_float", "value_floats") else None
            self.arrays[output] = numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value, kind)
            return
        if node.domain in QONNX_DOMAINS:
            self._quantize(node)
            return
        if any(i in self.sizes for i in node.input):
            found = fold_sizes(node, [self.sizes[i] if i in self.sizes else self.array(i) for i in node.input if i])
            if found is None:
                raise ExportError(f"{self.label}: node '{node.name}' ({node.op_type}) computes with the batch size; fix it")
            self.keep_sizes(output, found)
            return
        source = self.weights.get(node.input[0]) if node.input else None
        if source is not None and node.op_type == "Transpose" and source.values.ndim == 2:
            assert source.integers is not None
            assert source.unit is not None
            self.weights[output] = Weight(source.values.T, source.integers.T, source.unit.T, source.level_set)
            return
        if source is not None and node.op_type == "Identity":
            self.weights[output] = source
            return
        if node.op_type not in FOLDABLE or node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"{self.label}: node '{node.name}' ({node.op_type}) of constants is not folded; simplify the file first"
            )
        values = [self.array(i) for i in node.input]
        total = _result_size(node, values)
        if total > MAX_ELEMENTS:
            raise ExportError(
                f"{self.label}: node '{node.name}' ({node.op_type}) would make {total} constants; simplify the file first"
            )
        self.arrays[output] = _run_node(node, values, self.opsets)

    def array(self, name: str) -> NDArray[Any]:
        """A constant's values.

        Raises:
            ExportError: it is none.
        """
        if name in self.weights:
            return self.weights[name].values
        if name in self.sizes:
            raise ExportError(f"{self.label}: '{name}' depends on the batch size; export it with plain sizes")
        if name not in self.arrays:
            raise ExportError(
                f"{self.label}: '{name}' is not a constant; only convolutions of constant weights can be exported"
            )
        return self.arrays[name]

    def scalar(self, name: str, node: onnx.NodeProto) -> float:
        """A constant of one element, which `node` reads.

        Raises:
            ExportError: it has more.
        """
        value = self.array(name)
        if value.size != 1:
            raise ExportError(
                f"{self.label}: node '{node.name}' ({node.op_type}): '{name}' has {value.size} values, expected one"
            )
        return float(value.reshape(()))

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Quant or BipolarQuant of a constant: integers and unit, both broadcastable, unit kept in the shape it has.

        Integers of more than 8 bits, such as those of a bias, or with a zero point are plain constants.
        """
        output = node.output[0]
        value = self.array(node.input[0]).astype(np.float32)
        scale = self.array(node.input[1]).astype(np.float64)
        zero = 0.0
        if node.op_type == "BipolarQuant":
            units, low, high = np.where(value >= 0, 1.0, -1.0), -1, 1
        else:
            low, high = self.code_range(node)
            zero = self.scalar(node.input[2], node)
            # QONNX divides in float32; halves go to even.
            units = np.clip(np.rint(value / scale.astype(np.float32) + np.float32(zero)), low, high).astype(np.float64)
        if low < -128 or high > 127 or zero != 0:
            self.arrays[output] = ((units - zero) * scale).astype(np.float32)
            return
        integers = units.astype(np.int8)
        unit = np.broadcast_to(scale, value.shape) if scale.size > 1 else scale.reshape([1] * value.ndim)
        self.weights[output] = Weight(integers * scale, integers, unit)

    def code_range(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Smallest and largest integer of a `Quant` node.

        Raises:
            ExportError: it rounds by another mode than ROUND.
        """
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        mode = attributes.get("rounding_mode", b"ROUND")
        if mode != b"ROUND":
            raise ExportError(f"{self.label}: node '{node.name}' rounds by {mode.decode()}; only ROUND is supported")
        bits = round(self.scalar(node.input[3], node))
        narrow = int(attributes.get("narrow", 0))
        if attributes.get("signed", 1):
            return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
        return 0, 2**bits - 1 - narrow

    def _weight(self, name: str) -> tuple[Weight | None, Float64]:
        """A layer's weight; with one unit an output channel (axis 0) where it is quantized so."""
        if name not in self.weights:
            return None, self.array(name).astype(np.float64)
        return self.weights[name], self.weights[name].values

    def layer_weight(self, name: str, shape: Sequence[int] | None = None, transpose: bool = False) -> Weight:
        """A layer's weight, with one unit an output channel (axis 0) where it is quantized so.

        Args:
            name: of the constant.
            shape: [O, C, kh, kw] to view it in.
            transpose: whether it is stored as [C, O].
        """
        found, values = self._weight(name)
        values = values.T if transpose else values
        values = values if shape is None else values.reshape(shape)
        if found is None or found.integers is None or found.unit is None:
            return Weight(values)
        integers, unit = (found.integers.T, found.unit.T) if transpose else (found.integers, found.unit)
        flat = np.broadcast_to(unit, integers.shape).reshape(len(integers), -1)
        if (flat != flat[:, :1]).any() or (flat <= 0).any():
            return Weight(values)  # a scale an input channel: computed in float
        return integer_weight(integers.reshape(values.shape), flat[:, 0], smallest_levels(integers))


def _result_size(node: onnx.NodeProto, values: list[NDArray[Any]]) -> int:
    """A bound of the elements that a node of `FOLDABLE` makes."""
    if node.op_type == "Concat":
        return sum(v.size for v in values)
    if node.op_type == "ConstantOfShape":
        return int(np.prod(values[0], dtype=object))
    if node.op_type == "Gather":
        return values[0].size * values[1].size
    if node.op_type in ("Mul", "Div", "Add", "Sub"):
        return int(np.prod(np.broadcast_shapes(*(v.shape for v in values)), dtype=object))
    return max(v.size for v in values)


def _run_node(node: onnx.NodeProto, values: list[NDArray[Any]], opsets: Sequence[onnx.OperatorSetIdProto]) -> NDArray[Any]:
    names = [f"i{k}" for k in range(len(values))]
    proto = onnx.NodeProto()
    proto.CopyFrom(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("y")
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, values, strict=True)
    ]
    graph = helper.make_graph([proto], "constant", infos, [helper.make_tensor_value_info("y", 0, None)])
    alone = helper.make_model(graph, opset_imports=list(opsets))
    (result,) = cast("list[NDArray[Any]]", ReferenceEvaluator(alone).run(None, dict(zip(names, values, strict=True))))
    return np.asarray(result)
