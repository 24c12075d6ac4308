"""Read a packed file (`export/FORMAT.md`, version 1) and refuse, in one line, whatever is not one.

Sizes are bounded before anything is allocated; only names, attributes and initializers are read, never the function bodies.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from bitplane.runtime import format as fmt
from bitplane.runtime.errors import ModelError
from bitplane.runtime.model import (
    MAX_ELEMENTS,
    Add,
    Classifier,
    Conv,
    MaxPool,
    Model,
    Node,
    PadShortcut,
    Quantizer,
    Relu,
    Tensor,
)

_DEFAULTS: dict[str, dict[str, object]] = {
    "MaxPool": {"ceil_mode": 0, "dilations": [1, 1], "storage_order": 0, "auto_pad": b"NOTSET"},
    "Flatten": {"axis": 1},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
}
"""Attributes that a file may write, with the only value supported."""

_DTYPES: dict[int, type[np.generic]] = {
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.FLOAT: np.float32,
}


def parse(source: str | Path | bytes) -> Model:
    """Read and check a packed file.

    Args:
        source: path of the file, or its bytes.

    Returns:
        The model.

    Raises:
        ModelError: the file is missing, truncated, not ONNX, altered, of an unknown version, or breaks a rule of the format.
    """
    label = "<bytes>" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ModelError(f"{label}: cannot be read ({error.strerror}); check the path") from None
    try:
        if not data:  # protobuf reads it as a message without fields
            raise ValueError
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise ModelError(f"{label}: not an ONNX model, or truncated; export it again") from None
    return _Parser(label, proto).model()


class _Parser:
    def __init__(self, label: str, proto: onnx.ModelProto) -> None:
        self.label = label
        self.proto = proto
        self.metadata = {p.key: p.value for p in proto.metadata_props}
        self.initializers = {t.name: t for t in proto.graph.initializer}
        self.tensors: dict[str, Tensor] = {}
        self.stages: dict[str, tuple[str, str]] = {}  # pooled or flattened value -> (stage, features it came from)
        self.where = ""
        self.hash = hashlib.sha256()

    def fail(self, problem: str, remedy: str = "export it again") -> ModelError:
        return ModelError(f"{self.label}: {self.where}{problem}; {remedy}")

    def model(self) -> Model:
        self._check_version()
        graph = self.proto.graph
        input_name = self._read_input(graph)
        nodes = [n for node in graph.node if (n := self._read_node(node)) is not None]
        self.where = ""
        outputs = [o.name for o in graph.output]
        if outputs != [fmt.OUTPUT_NAME]:
            raise self.fail(f"the graph's outputs are {outputs}, expected ['{fmt.OUTPUT_NAME}']")
        if fmt.OUTPUT_NAME not in self.tensors or self.tensors[fmt.OUTPUT_NAME].kind != "logits":
            raise self.fail(f"no Gemm makes the output '{fmt.OUTPUT_NAME}'")
        expected, found = self.metadata.get(fmt.META_PLANES_SHA256), self.hash.hexdigest()
        if expected != found:
            raise self.fail(f"{fmt.META_PLANES_SHA256} is {expected} but the planes hash to {found}: the weights were altered")
        return Model(self.label, tuple(nodes), self.tensors, input_name, fmt.OUTPUT_NAME, self.metadata)

    def _check_version(self) -> None:
        version = self.metadata.get(fmt.META_FORMAT_VERSION)
        if version is None:
            raise self.fail(
                f"metadata {fmt.META_FORMAT_VERSION} is missing: not a packed file", "make one with `bitplane export`"
            )
        if version != fmt.FORMAT_VERSION:
            raise self.fail(
                f"format version '{version}' is unknown, this runtime reads '{fmt.FORMAT_VERSION}'", "upgrade bitplane"
            )
        versions = {o.domain: o.version for o in self.proto.opset_import}
        if versions.get(fmt.DOMAIN) != fmt.DOMAIN_VERSION:
            found = (
                f"has version {versions[fmt.DOMAIN]}" if fmt.DOMAIN in versions else "is not used: this is a plain ONNX model"
            )
            raise self.fail(f"domain '{fmt.DOMAIN}' {found}, expected version {fmt.DOMAIN_VERSION}")

    def _read_input(self, graph: onnx.GraphProto) -> str:
        inputs = [i for i in graph.input if i.name not in self.initializers]
        if [i.name for i in inputs] != [fmt.INPUT_NAME]:
            raise self.fail(f"the graph's inputs are {[i.name for i in inputs]}, expected ['{fmt.INPUT_NAME}']")
        kind = inputs[0].type.tensor_type
        if kind.elem_type != onnx.TensorProto.UINT8:
            raise self.fail(f"input '{fmt.INPUT_NAME}' is not uint8")
        sizes = [d.dim_value for d in kind.shape.dim]
        if len(sizes) != 4 or min(sizes[1:]) < 1:
            raise self.fail(f"input '{fmt.INPUT_NAME}' has shape {sizes}, expected [batch, C, H, W] with C, H, W known")
        self._add(fmt.INPUT_NAME, Tensor("pixels", (sizes[1], sizes[2], sizes[3])))
        return fmt.INPUT_NAME

    def _read_node(self, node: onnx.NodeProto) -> Node | None:
        self.where = f"node '{node.name}' ({node.op_type}): "
        read = _READERS.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
        if read is None:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise self.fail(f"operator '{operator}' is not part of format version {fmt.FORMAT_VERSION}")
        if len(node.output) != 1:
            raise self.fail(f"has {len(node.output)} outputs, expected 1")
        return read(self, node)

    def _add(self, name: str, tensor: Tensor) -> None:
        if not name or name in self.tensors or name in self.stages or name in self.initializers:
            raise self.fail(f"output name '{name}' is empty or used twice")
        if min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise self.fail(f"'{name}' would have shape {list(tensor.shape)}, expected 1 to {MAX_ELEMENTS} elements")
        self.tensors[name] = tensor

    def _inputs(self, node: onnx.NodeProto, count: int) -> list[str]:
        if len(node.input) != count:
            raise self.fail(f"has {len(node.input)} inputs, expected {count}")
        return list(node.input)

    def _value(self, name: str, kind: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self.fail(f"input '{name}' is not made by an earlier node")
        if tensor.kind != kind:
            raise self.fail(f"input '{name}' holds {tensor.kind}, expected {kind}")
        return tensor

    def _constant(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> NDArray[Any]:
        """An initializer of exactly this type and shape."""
        proto = self.initializers.get(name)
        if proto is None:
            raise self.fail(f"input '{name}' is not an initializer")
        if _DTYPES.get(proto.data_type) is not dtype:
            raise self.fail(f"'{name}' has type {onnx.TensorProto.DataType.Name(proto.data_type)}, expected {dtype.__name__}")
        if list(proto.dims) != list(shape):
            raise self.fail(f"'{name}' has shape {list(proto.dims)}, expected {list(shape)}")
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            raise self.fail(f"'{name}' lies in another file")
        items = (
            len(proto.raw_data) // np.dtype(dtype).itemsize if proto.raw_data else len(proto.int32_data) + len(proto.float_data)
        )
        if items != math.prod(shape):
            raise self.fail(f"'{name}' holds {items} values, expected {math.prod(shape)}")
        return onnx.numpy_helper.to_array(proto)

    def _dims(self, name: str) -> list[int]:
        if name not in self.initializers:
            raise self.fail(f"input '{name}' is not an initializer")
        return list(self.initializers[name].dims)

    def _attributes(self, node: onnx.NodeProto, **lengths: int) -> dict[str, tuple[int, ...]]:
        """The integer attributes a node must have, each a list of that length (0: one integer)."""
        found: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
        out: dict[str, tuple[int, ...]] = {}
        for key, length in lengths.items():
            value = found.pop(key, None)
            ints: list[Any] = cast("list[Any]", value) if isinstance(value, list) and length else [cast("Any", value)]
            if len(ints) != max(length, 1) or not all(isinstance(i, int) for i in ints):
                raise self.fail(f"attribute '{key}' is {value}, expected {length or 'an'} integer{'s' if length else ''}")
            out[key] = tuple(ints)
        for key, value in found.items():
            if key not in _DEFAULTS.get(node.op_type, {}) or _DEFAULTS[node.op_type][key] != value:
                raise self.fail(f"attribute '{key}' = {value} is not supported")
        return out

    def _window(
        self, shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
    ) -> tuple[int, int]:
        """Output height and width of a sliding window."""
        if min(strides) < 1 or min(pads) < 0 or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
            raise self.fail(f"strides {list(strides)}, pads {list(pads)}: strides must be positive, pads in [0, kernel)")
        out = [(shape[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1)]
        if any(shape[i] + pads[i] + pads[i + 2] < kernel[i] for i in (0, 1)):
            raise self.fail(f"kernel {list(kernel)} is larger than its padded input {list(shape)}")
        return out[0], out[1]

    def _scale_and_bias(self, names: Sequence[str], channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scale, bias = (self._constant(name, np.float32, (channels, 1, 1)).reshape(-1) for name in names)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise self.fail(f"scale '{names[0]}' must be positive and finite, its smallest value is {scale.min()}")
        if not np.isfinite(bias).all():
            raise self.fail(f"bias '{names[1]}' must be finite")
        return scale, bias

    def pixel_conv(self, node: onnx.NodeProto) -> Conv:
        source, weight_name, zero_name, *factors = self._inputs(node, 5)
        c, h, w = self._value(source, "pixels").shape
        dims = self._dims(weight_name)
        if len(dims) != 4 or min(dims) < 1 or dims[1] != c or math.prod(dims) > MAX_ELEMENTS:
            raise self.fail(f"weight '{weight_name}' has shape {dims}, expected [O, {c}, kh, kw]")
        weight = self._constant(weight_name, np.int8, dims)
        limit = fmt.PIXEL_WEIGHT_LIMIT
        if weight.min() < -limit or weight.max() > limit:
            raise self.fail(f"weight '{weight_name}' spans [{weight.min()}, {weight.max()}], expected [-{limit}, {limit}]")
        attributes = self._attributes(node, strides=2, pads=4)
        o, _, kh, kw = dims
        if kh * kw * c * 255 * limit >= 1 << 31:
            raise self.fail(f"sums over {kh * kw * c} weights overflow 32 bits")
        height, width = self._window((h, w), (kh, kw), attributes["strides"], attributes["pads"])
        scale, bias = self._scale_and_bias(factors, o)
        zero_point = int(self._constant(zero_name, np.uint8, ()))
        self._add(node.output[0], Tensor("features", (o, height, width)))
        shape, strides, pads = (o, kh, kw, c), attributes["strides"], attributes["pads"]
        return Conv(
            node.name, node.op_type, source, node.output[0], shape, strides, pads, scale, bias, (), weight, zero_point  # type: ignore[arg-type]
        )  # fmt: skip

    def low_bit_conv(self, node: onnx.NodeProto) -> Conv:
        names = fmt.PLANES[node.op_type]
        source, *rest = self._inputs(node, 3 + len(names))
        codes = self._value(source, "codes")
        c, h, w = codes.shape
        attributes = self._attributes(node, weight_shape=4, strides=2, pads=4)
        o, kh, kw, channels = shape = attributes["weight_shape"]
        if min(shape) < 1 or channels != c or math.prod(shape) > MAX_ELEMENTS:
            raise self.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, {c}]")
        weights = kh * kw * c
        if weights * (2**codes.bits - 1) * sum(map(abs, fmt.QUATERNARY_TENTHS)) >= 1 << 31:
            raise self.fail(f"sums over {weights} weights overflow 32 bits")
        planes = tuple(self._plane(name, o, weights) for name in rest[: len(names)])
        if node.op_type == fmt.TERNARY_CONV and (planes[0] & ~planes[1]).any():
            raise self.fail(f"sign '{rest[0]}' is set where mask '{rest[1]}' is 0")
        height, width = self._window((h, w), (kh, kw), attributes["strides"], attributes["pads"])
        scale, bias = self._scale_and_bias(rest[len(names) :], o)
        self._add(node.output[0], Tensor("features", (o, height, width)))
        strides, pads = attributes["strides"], attributes["pads"]
        return Conv(node.name, node.op_type, source, node.output[0], (o, kh, kw, c), strides, pads, scale, bias, planes)  # type: ignore[arg-type]

    def _plane(self, name: str, rows: int, weights: int) -> NDArray[np.uint8]:
        plane = self._constant(name, np.uint8, (rows, fmt.plane_bytes(weights)))
        used = weights % 8
        if used and (plane[:, -1] >> used).any():
            raise self.fail(f"plane '{name}' has padding bits set after its {weights} weights")
        self.hash.update(plane.tobytes())
        return plane

    def quantize(self, node: onnx.NodeProto) -> Quantizer:
        source, step_name = self._inputs(node, 2)
        features = self._value(source, "features")
        (top,) = self._attributes(node, top=1)["top"]
        bits = next((a for a in fmt.ACTIVATION_BITS if 2**a - 1 == top), 0)
        if not bits:
            raise self.fail(f"top is {top}, expected one of {[2**a - 1 for a in fmt.ACTIVATION_BITS]}")
        step = float(self._constant(step_name, np.float32, ()))
        if not (math.isfinite(step) and step > 0):
            raise self.fail(f"step '{step_name}' is {step}, expected a positive finite number")
        self._add(node.output[0], Tensor("codes", features.shape, bits))
        return Quantizer(node.name, source, node.output[0], bits, step)

    def sign(self, node: onnx.NodeProto) -> Quantizer:
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._add(node.output[0], Tensor("codes", self._value(source, "features").shape, 1))
        return Quantizer(node.name, source, node.output[0], 1, None)

    def pad_shortcut(self, node: onnx.NodeProto) -> PadShortcut:
        (source,) = self._inputs(node, 1)
        c, h, w = self._value(source, "features").shape
        attributes = self._attributes(node, steps=2, pads=8)
        (sy, sx), pads = attributes["steps"], attributes["pads"]
        if min(sy, sx) < 1 or min(pads) < 0 or any(pads[i] for i in (0, 2, 3, 4, 6, 7)):
            raise self.fail(
                f"steps {[sy, sx]}, pads {list(pads)}: steps must be positive, pads only on channels and not negative"
            )
        self._add(node.output[0], Tensor("features", (pads[1] + c + pads[5], -(-h // sy), -(-w // sx))))
        return PadShortcut(node.name, source, node.output[0], (sy, sx), pads[1], pads[5])

    def relu(self, node: onnx.NodeProto) -> Relu:
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._add(node.output[0], self._value(source, "features"))
        return Relu(node.name, source, node.output[0])

    def add(self, node: onnx.NodeProto) -> Add:
        first, second = self._inputs(node, 2)
        self._attributes(node)
        a, b = self._value(first, "features"), self._value(second, "features")
        if a != b:
            raise self.fail(f"inputs have shapes {list(a.shape)} and {list(b.shape)}, expected equal ones")
        self._add(node.output[0], a)
        return Add(node.name, (first, second), node.output[0])

    def max_pool(self, node: onnx.NodeProto) -> MaxPool:
        (source,) = self._inputs(node, 1)
        c, h, w = self._value(source, "features").shape
        a = self._attributes(node, kernel_shape=2, strides=2, pads=4)
        if min(a["kernel_shape"]) < 1:
            raise self.fail(f"kernel_shape is {list(a['kernel_shape'])}, expected positive sizes")
        height, width = self._window((h, w), a["kernel_shape"], a["strides"], a["pads"])
        self._add(node.output[0], Tensor("features", (c, height, width)))
        return MaxPool(node.name, source, node.output[0], a["kernel_shape"], a["strides"], a["pads"])  # type: ignore[arg-type]

    def _stage(self, node: onnx.NodeProto, stage: str, origin: str) -> None:
        name = node.output[0]
        if not name or name in self.tensors or name in self.stages or name in self.initializers:
            raise self.fail(f"output name '{name}' is empty or used twice")
        self.stages[name] = (stage, origin)

    def _staged(self, name: str, stage: str) -> str:
        if self.stages.get(name, ("", ""))[0] != stage:
            raise self.fail(f"input '{name}' is not the output of {stage}")
        return self.stages[name][1]

    def average_pool(self, node: onnx.NodeProto) -> None:
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._value(source, "features")
        self._stage(node, "GlobalAveragePool", source)

    def flatten(self, node: onnx.NodeProto) -> None:
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._stage(node, "Flatten", self._staged(source, "GlobalAveragePool"))

    def gemm(self, node: onnx.NodeProto) -> Classifier:
        source, weight_name, bias_name = self._inputs(node, 3)
        origin = self._staged(source, "Flatten")
        if self._attributes(node, transB=0)["transB"] != (1,):
            raise self.fail("attribute 'transB' is not 1")
        channels, dims = self.tensors[origin].shape[0], self._dims(weight_name)
        if len(dims) != 2 or min(dims) < 1 or dims[1] != channels or math.prod(dims) > MAX_ELEMENTS:
            raise self.fail(f"weight '{weight_name}' has shape {dims}, expected [classes, {channels}]")
        weight = self._constant(weight_name, np.float32, dims)
        bias = self._constant(bias_name, np.float32, (dims[0],))
        self._add(node.output[0], Tensor("logits", (dims[0], 1, 1)))
        return Classifier(node.name, origin, node.output[0], weight, bias)


_READERS: dict[tuple[str, str], Callable[[_Parser, onnx.NodeProto], Node | None]] = {
    (fmt.DOMAIN, fmt.PIXEL_CONV): _Parser.pixel_conv,
    **{(fmt.DOMAIN, op): _Parser.low_bit_conv for op in fmt.PLANES},
    (fmt.DOMAIN, fmt.QUANTIZE): _Parser.quantize,
    (fmt.DOMAIN, fmt.SIGN): _Parser.sign,
    (fmt.DOMAIN, fmt.PAD_SHORTCUT): _Parser.pad_shortcut,
    ("", "Relu"): _Parser.relu,
    ("", "Add"): _Parser.add,
    ("", "MaxPool"): _Parser.max_pool,
    ("", "GlobalAveragePool"): _Parser.average_pool,
    ("", "Flatten"): _Parser.flatten,
    ("", "Gemm"): _Parser.gemm,
}
