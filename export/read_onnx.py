"""A float ONNX or a QONNX model to a `Network`.

What is understood becomes a node of the network; every other operator of one output is kept as it is. Constants are folded,
within bounds, through a short list of operators. QONNX (https://github.com/fastmachinelearning/qonnx) adds `Quant` and
`BipolarQuant` of domain `qonnx.custom_op.general`: on a constant they make an integer weight, elsewhere a quantizer.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bitplane.export.constants import FOLDABLE, Constants
from bitplane.export.errors import ExportError
from bitplane.export.network import (
    INPUT,
    Add,
    Affine,
    Conv,
    Float64,
    GlobalAveragePool,
    Kept,
    MaxPool,
    Network,
    Normalize,
    PRelu,
    Quantize,
    Relu,
    Sign,
)
from bitplane.export.qonnx import QONNX_DOMAINS
from bitplane.export.reading import Normalization, Reading
from bitplane.format import names as fmt
from bitplane.format.limits import MAX_ELEMENTS


def read_onnx(
    model: onnx.ModelProto,
    label: str,
    input_shape: tuple[int, int, int] | None = None,
    normalize: Normalization | None = None,
) -> Network:
    """Read a model.

    Args:
        model: the model, its tensors in memory.
        label: what to call it in messages.
        input_shape: (C, H, W), where the file leaves sizes open.
        normalize: mean and standard deviation in pixels: the network reads uint8 pixels and gives (pixel - mean) / std to the
            model, which takes floats.

    Raises:
        ExportError: the model is not one of images, has functions of its own, or uses what cannot be kept.
    """
    return _Reader(model, label, input_shape, normalize).read()


class _Reader:
    def __init__(
        self,
        model: onnx.ModelProto,
        label: str,
        input_shape: tuple[int, int, int] | None,
        normalize: Normalization | None,
    ) -> None:
        self.label = label
        if model.functions:
            raise ExportError(f"{label}: has model-local functions; export from the network it was made from")
        self.model = _at_opset(model, label)
        graph = self.model.graph
        self.constants = Constants(self.model, label)
        self.padded: dict[str, tuple[str, tuple[int, int, int, int], float]] = {}
        inputs = [i for i in graph.input if i.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ExportError(f"{label}: has {len(inputs)} inputs and {len(graph.output)} outputs, expected one of each")
        kind = inputs[0].type.tensor_type
        sizes = [d.dim_value for d in kind.shape.dim]
        if len(sizes) != 4 or (min(sizes[1:]) < 1 and input_shape is None):
            raise ExportError(f"{label}: input '{inputs[0].name}' has shape {sizes}, expected [batch, C, H, W]; give samples")
        shape = input_shape or (sizes[1], sizes[2], sizes[3])
        if any(s not in (0, g) for s, g in zip(sizes[1:], shape, strict=True)):
            raise ExportError(f"{label}: input '{inputs[0].name}' has shape {sizes}, the samples are {list(shape)}")
        if kind.elem_type not in (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT):
            raise ExportError(f"{label}: input '{inputs[0].name}' is neither uint8 nor float32")
        is_pixels = kind.elem_type == onnx.TensorProto.UINT8
        if is_pixels and normalize is not None:
            raise ExportError(f"{label}: takes uint8 pixels already; leave the normalization out")
        self.reading = Reading(label, shape, pixels=is_pixels or normalize is not None)
        self.values = {inputs[0].name: INPUT if normalize is None else self.reading.normalize(normalize)}
        self.shapes = self._infer_shapes(inputs[0], shape)

    def _infer_shapes(self, value: onnx.ValueInfoProto, shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        known = onnx.ModelProto()
        known.CopyFrom(self.model)
        own = next(i for i in known.graph.input if i.name == value.name)
        own.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [1, *shape]))
        try:
            known = onnx.shape_inference.infer_shapes(known, data_prop=True)
        except Exception:
            return {}  # only kept operators need it, and they are refused without
        infos = [*known.graph.value_info, *known.graph.output]
        return {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}

    def read(self) -> Network:
        for node in self.model.graph.node:
            try:
                self._node(node)
            except (KeyError, IndexError, ValueError, TypeError) as e:
                raise ExportError(
                    f"{self.label}: node '{node.name}' ({node.op_type}) cannot be read ({e!r}); check the file"
                ) from e
        name = self.model.graph.output[0].name
        if name not in self.values:
            raise ExportError(f"{self.label}: output '{name}' does not depend on the input")
        return self.reading.network(self.values[name])

    def _node(self, node: onnx.NodeProto) -> None:
        present = [i for i in node.input if i]
        if all(i in self.constants for i in present):
            self.constants.fold(node)
            return
        domain = "qonnx" if node.domain in QONNX_DOMAINS else node.domain
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        read = _READERS.get((domain if domain != "ai.onnx" else "", node.op_type))
        out = read(self, node, attributes) if read else None
        if out is None:
            out = self._keep(node)
        self.values[node.output[0]] = out

    def _source(self, name: str) -> str:
        if name in self.padded:
            raise ExportError(f"{self.label}: a Pad in space is only supported in front of a convolution")
        if name not in self.values:
            raise ExportError(f"{self.label}: '{name}' is a constant where a value is expected")
        return self.values[name]

    def conv(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        weight = self.constants.layer_weight(node.input[1])
        if weight.values.ndim != 4 or any(d != 1 for d in a.get("dilations", ())) or a.get("auto_pad", b"NOTSET") != b"NOTSET":
            return None
        source, pads, pad_value = self.padded.get(node.input[0], (None, (0, 0, 0, 0), 0.0))
        own = tuple(a.get("pads", (0, 0, 0, 0)))
        if source is not None and any(own):
            raise ExportError(f"{self.label}: node '{node.name}' pads what a Pad has padded; merge the two")
        o = weight.shape[0]
        bias = self.constants.array(node.input[2]).astype(np.float64) if len(node.input) > 2 and node.input[2] else np.zeros(o)
        x = source or self._source(node.input[0])
        final = pads if source is not None else own
        strides = tuple(a.get("strides", (1, 1)))
        group = int(a.get("group", 1))
        # A convolution over its whole input is a fully connected layer, as which QONNX's Quant weights are often written.
        dense = group == 1 and not any(final) and self.reading.shapes[x][1:] == weight.shape[2:]
        fill = pad_value if any(final) else 0.0
        return self.reading.add(Conv(_name(node), x, weight, bias, strides, final, group, fill, dense))  # type: ignore[arg-type]

    def gemm(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0) or x not in self.reading.flat:
            return None
        return self._dense(node, x, not a.get("transB", 0), node.input[2] if len(node.input) > 2 else "")

    def matmul(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        return self._dense(node, x, True, "") if x in self.reading.flat else None

    def _dense(self, node: onnx.NodeProto, x: str, transpose: bool, bias_name: str) -> str:
        shape = self.reading.shapes[x]
        values = self.constants.array(node.input[1])
        rows = values.T if transpose else values
        if rows.shape[1] != int(np.prod(shape)):
            raise ExportError(
                f"{self.label}: node '{node.name}' takes {rows.shape[1]} features, its input has shape {list(shape)}"
            )
        weight = self.constants.layer_weight(node.input[1], (len(rows), *shape), transpose)
        given = self.constants.array(bias_name).astype(np.float64) if bias_name else np.zeros(1)
        bias = np.broadcast_to(given, (len(rows),))
        out = self.reading.add(Conv(_name(node), x, weight, bias, dense=True))
        self.reading.flat.add(out)
        return out

    def batch_norm(self, node: onnx.NodeProto, a: dict[str, Any]) -> str:
        gamma, beta, mean, variance = (self.constants.array(i).astype(np.float64) for i in node.input[1:5])
        factor = gamma / np.sqrt(variance + a.get("epsilon", 1e-5))
        return self._affine(_name(node), self._source(node.input[0]), factor, beta - mean * factor)

    def relu(self, node: onnx.NodeProto, a: dict[str, Any]) -> str:
        return self.reading.add(Relu(_name(node), self._source(node.input[0])))

    def prelu(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        if node.input[1] in self.values:
            return None
        slope = self._per_channel(self.constants.array(node.input[1]), x)
        return None if slope is None else self.reading.add(PRelu(_name(node), x, slope))

    def leaky_relu(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        shape = self.reading.shapes[x]
        return self.reading.add(PRelu(_name(node), x, np.full(shape[0], a.get("alpha", 0.01)))) if len(shape) == 3 else None

    def clip(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        low = self.constants.array(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        if low is None or low.size != 1 or float(low.reshape(())) != 0 or (len(node.input) > 2 and node.input[2]):
            return None
        return self.relu(node, a)

    def alias(self, node: onnx.NodeProto, a: dict[str, Any]) -> str:
        return self._source(node.input[0])

    def cast(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        if x != INPUT or not self.reading.pixels or a.get("to") != onnx.TensorProto.FLOAT:
            return None
        channels = self.reading.input_shape[0]
        return self.reading.add(Normalize("pixels", x, np.zeros(channels), np.ones(channels)))

    def arithmetic(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        """Add of two values, or any of the four with a constant a channel."""
        first, second = node.input
        if first in self.values and second in self.values:
            x, y = self._source(first), self._source(second)
            same = self.reading.shapes[x] == self.reading.shapes[y]
            return self.reading.add(Add(_name(node), x, y)) if node.op_type == "Add" and same else None
        swapped = first not in self.values
        constant, x = self.constants.array(first if swapped else second), self._source(second if swapped else first)
        per_channel = self._per_channel(constant, x)
        if per_channel is None or (swapped and node.op_type == "Div"):
            return None
        one, zero = np.ones_like(per_channel), np.zeros_like(per_channel)
        factor, offset = {
            "Add": (one, per_channel),
            "Sub": (-one, per_channel) if swapped else (one, -per_channel),
            "Mul": (per_channel, zero),
            "Div": (1 / per_channel, zero),
        }[node.op_type]
        return self._affine(_name(node), x, factor, offset)

    def _per_channel(self, constant: NDArray[Any], x: str) -> Float64 | None:
        shape = self.reading.shapes[x]
        channels = shape[0] if len(shape) == 3 else 0
        if constant.size == 1:
            return np.full(channels, float(constant.reshape(()))) if channels else None
        # A flattened value has its channels last, any other third from the end.
        axis = constant.ndim - (1 if x in self.reading.flat and shape[1:] == (1, 1) else 3)
        if not channels or axis < 0 or constant.shape[axis] != channels or constant.size != channels:
            return None
        return constant.reshape(-1).astype(np.float64)

    def _affine(self, name: str, x: str, factor: Float64, offset: Float64) -> str:
        last = self.reading.nodes[-1] if self.reading.nodes else None
        if isinstance(last, Normalize) and last.name == x and (factor > 0).all():
            self.reading.nodes[-1] = Normalize(x, last.source, last.mean - offset * last.std / factor, last.std / factor)
            return x
        return self.reading.add(Affine(name, x, factor, offset))

    def max_pool(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        plain = a.get("auto_pad", b"NOTSET") == b"NOTSET" and not a.get("ceil_mode", 0) and not a.get("storage_order", 0)
        if not plain or any(d != 1 for d in a.get("dilations", ())) or len(node.output) != 1:
            return None
        kernel, strides, pads = tuple(a["kernel_shape"]), tuple(a.get("strides", (1, 1))), tuple(a.get("pads", (0,) * 4))
        return self.reading.add(MaxPool(_name(node), self._source(node.input[0]), kernel, strides, pads))  # type: ignore[arg-type]

    def average_pool(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        whole = node.op_type == "GlobalAveragePool" or (
            tuple(a["kernel_shape"]) == self.reading.shapes[x][1:] and not any(a.get("pads", ()))
        )
        return self.reading.add(GlobalAveragePool(_name(node), x)) if whole else None

    def reduce_mean(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        axes = self.constants.array(node.input[1]).tolist() if len(node.input) > 1 else a.get("axes", [])
        x = self._source(node.input[0])
        if sorted(i % 4 for i in axes) != [2, 3] or len(self.reading.shapes[x]) != 3:
            return None
        out = self.reading.add(GlobalAveragePool(_name(node), x))
        if not a.get("keepdims", 1):
            self.reading.flat.add(out)
        return out

    def flatten(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x = self._source(node.input[0])
        if node.op_type == "Flatten":
            whole = a.get("axis", 1) == 1
        elif node.op_type == "Reshape":
            size = int(np.prod(self.reading.shapes[x]))
            target = self.constants.array(node.input[1]).tolist()
            whole = len(target) == 2 and target[1] in (-1, size) and (target[0] in (-1, 0, 1))
        else:
            axes = self.constants.array(node.input[1]).tolist() if len(node.input) > 1 else a.get("axes", [2, 3])
            whole = sorted(i % 4 for i in axes) == [2, 3]
        if not whole or len(self.reading.shapes[x]) != 3:
            return None
        self.reading.flat.add(x)
        return x

    def pad(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        x, pads = self._source(node.input[0]), self.constants.array(node.input[1]).tolist()
        value = self.constants.scalar(node.input[2], node) if len(node.input) > 2 and node.input[2] else 0.0
        if a.get("mode", b"constant") != b"constant" or len(pads) != 8 or min(pads) < 0 or pads[0] or pads[4]:
            return None
        top, left, bottom, right = pads[2], pads[3], pads[6], pads[7]
        if not any((top, left, bottom, right)) and value == 0:
            return self.reading.pad_shortcut(_name(node), x, (1, 1), pads[1], pads[5])
        if pads[1] or pads[5]:
            return None
        readers = [n.op_type for n in self.model.graph.node if node.output[0] in n.input]
        if set(readers) != {"Conv"}:
            return None
        self.padded[node.output[0]] = (x, (top, left, bottom, right), value)
        return x

    def slice(self, node: onnx.NodeProto, a: dict[str, Any]) -> str | None:
        if len(node.input) < 5 or not all(node.input):
            return None
        starts, ends, axes, steps = (self.constants.array(i).tolist() for i in node.input[1:])
        x = self._source(node.input[0])
        shape = self.reading.shapes[x]
        if len(shape) != 3 or any(starts) or any(e < shape[i % 4 - 1] for e, i in zip(ends, axes, strict=True) if i % 4):
            return None
        by = dict(zip((i % 4 for i in axes), steps, strict=True))
        if by.get(0, 1) != 1 or by.get(1, 1) != 1 or min(by.values()) < 1:
            return None
        return self.reading.pad_shortcut(_name(node), x, (by.get(2, 1), by.get(3, 1)), 0, 0)

    def quant(self, node: onnx.NodeProto, a: dict[str, Any]) -> str:
        step, zero = self.constants.array(node.input[1]), self.constants.scalar(node.input[2], node)
        if step.size != 1 or zero != 0:
            raise ExportError(
                f"{self.label}: node '{node.name}': activations with a scale a channel or a zero point are not supported"
            )
        low, high = self.constants.code_range(node)
        x = self._source(node.input[0])
        producer = next((n for n in self.reading.nodes if n.name == x), None)
        if (
            isinstance(producer, Normalize)
            and (low, high) == (0, 255)
            and (producer.std == float(step.reshape(()))).all()
            and not producer.mean.any()
        ):
            return x  # bytes are quantized already
        # A signed range of values that are never negative is an unsigned one.
        low = 0 if isinstance(producer, Relu) else low
        return self.reading.add(Quantize(_name(node), x, float(np.float32(step.reshape(()))), high, low))

    def bipolar(self, node: onnx.NodeProto, a: dict[str, Any]) -> str:
        return self.reading.add(Sign(_name(node), self._source(node.input[0]), self.constants.scalar(node.input[1], node)))

    def _keep(self, node: onnx.NodeProto) -> str:
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            domain = f"{node.domain}." if node.domain else ""
            raise ExportError(
                f"{self.label}: node '{node.name}' ({domain}{node.op_type}) is not supported; supported are standard operators"
                " of one output, and QONNX's Quant and BipolarQuant"
            )
        shape = self.shapes.get(node.output[0], ())
        if math.prod(shape) > MAX_ELEMENTS:
            raise ExportError(
                f"{self.label}: node '{node.name}' ({node.op_type}) makes a value of shape {list(shape)}, too large"
            )
        if not shape or min(shape[1:], default=1) < 1:
            raise ExportError(f"{self.label}: node '{node.name}' ({node.op_type}): its output's shape cannot be inferred")
        constants: dict[str, NDArray[Any]] = {}
        inputs: list[str] = []
        for name in node.input:
            if not name:
                inputs.append("")
            elif name in self.values:
                inputs.append(self.reading.spread(self._source(name)))
            else:
                constants[f"{_name(node)}.{len(inputs)}"] = self.constants.array(name)
                inputs.append(f"{_name(node)}.{len(inputs)}")
        return self.reading.add(Kept(_name(node), tuple(inputs), node, constants, tuple(shape[1:])))


_Read = Callable[[_Reader, onnx.NodeProto, dict[str, Any]], str | None]
_READERS: dict[tuple[str, str], _Read] = {
    ("", "Conv"): _Reader.conv,
    ("", "Gemm"): _Reader.gemm,
    ("", "MatMul"): _Reader.matmul,
    ("", "BatchNormalization"): _Reader.batch_norm,
    ("", "Relu"): _Reader.relu,
    ("", "PRelu"): _Reader.prelu,
    ("", "LeakyRelu"): _Reader.leaky_relu,
    ("", "Clip"): _Reader.clip,
    ("", "Identity"): _Reader.alias,
    ("", "Dropout"): _Reader.alias,
    ("", "Cast"): _Reader.cast,
    **dict.fromkeys([("", op) for op in ("Add", "Sub", "Mul", "Div")], _Reader.arithmetic),
    ("", "MaxPool"): _Reader.max_pool,
    **dict.fromkeys([("", op) for op in ("GlobalAveragePool", "AveragePool")], _Reader.average_pool),
    ("", "ReduceMean"): _Reader.reduce_mean,
    **dict.fromkeys([("", op) for op in ("Flatten", "Reshape", "Squeeze")], _Reader.flatten),
    ("", "Pad"): _Reader.pad,
    ("", "Slice"): _Reader.slice,
    ("qonnx", "Quant"): _Reader.quant,
    ("qonnx", "BipolarQuant"): _Reader.bipolar,
}


def _name(node: onnx.NodeProto) -> str:
    """What to call a node: after its weight where that carries the layer's name, as exporters write it."""
    if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1 and node.input[1].endswith(".weight"):
        return node.input[1].removesuffix(".weight")
    return node.name or node.output[0]


def _at_opset(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model at the format's opset, where an operator that is kept would change its meaning."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < 7:
        raise ExportError(f"{label}: opset {version} is not supported; export it with opset 7 or later")
    understood = all(
        (n.domain, n.op_type) in _READERS or n.op_type in ("Constant", *FOLDABLE) or n.domain for n in model.graph.node
    )
    if version == fmt.OPSET_VERSION or understood:
        return model
    try:
        return onnx.version_converter.convert_version(model, fmt.OPSET_VERSION)
    except Exception as e:
        raise ExportError(
            f"{label}: opset {version} cannot be converted to {fmt.OPSET_VERSION}; export it with that opset"
        ) from e
