"""The operators of a packed file (`export/FORMAT.md`, Graph), one method each: a checked ONNX node to a node of `model`.

Sizes are bounded in exact arithmetic before anything of their size is allocated.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import format as fmt
from bitplane.runtime.errors import ModelError
from bitplane.runtime.model import (
    MAX_CHANNELS,
    MAX_ELEMENTS,
    MAX_STRIDE,
    MAX_WORK,
    Add,
    AveragePool,
    Classifier,
    Conv,
    FakeQuantize,
    FloatConv,
    Load,
    MaxPool,
    Node,
    PadShortcut,
    PRelu,
    Quantizer,
    Relu,
    Tensor,
)

MAX_MESSAGE = 400
"""Characters of a message; names in a file may be longer."""
LOADED = "input.features"
"""Name of a float32 input as features, channels last."""

_DEFAULTS: dict[str, dict[str, object]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1]},
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


def plain(text: str) -> str:
    """Text with names from the file in it, as one printable line of bounded length."""
    short = text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def round_up(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


class NodeReader:
    """Checks one node after another and makes the runtime's own of it.

    Attributes:
        label: what to call the file in messages.
        where: the node that is being read, for messages.
        initializers: constants of the file by name.
        tensors: every value so far.
        flat: flattened value -> features of one pixel that it came from.
        weights: float weights made by nodes, and what they are stored as.
        dense: integers and units of those of two axes.
        unpacked: elements of all weights so far, as they lie in memory.
        work: operations of one image so far.
    """

    def __init__(self, label: str, proto: onnx.ModelProto) -> None:
        self.label = label
        self.where = ""
        self.initializers = {t.name: t for t in proto.graph.initializer}
        self.tensors: dict[str, Tensor] = {}
        self.flat: dict[str, str] = {}
        self.weights: dict[str, tuple[NDArray[np.float32], str]] = {}
        self.dense: dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        self.unpacked = 0
        self.work = 0

    def fail(self, problem: str, remedy: str = "export it again") -> ModelError:
        """The error for the node that is being read."""
        return ModelError(f"{self.label}: {plain(f'{self.where}{problem}')}; {remedy}")

    def _add(self, name: str, tensor: Tensor, window: int = 1) -> None:
        """A new value, each element of which takes `window` operations."""
        self._new(name)
        if min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise self.fail(f"'{name}' would have shape {list(tensor.shape)}, expected 1 to {MAX_ELEMENTS} elements")
        if tensor.shape[0] > MAX_CHANNELS:
            raise self.fail(f"'{name}' would have {tensor.shape[0]} channels, at most {MAX_CHANNELS} are read")
        self.work += math.prod(tensor.shape) * window
        if self.work > MAX_WORK:
            raise self.fail(f"the model asks for more than {MAX_WORK} operations an image", "use smaller images")
        self.tensors[name] = tensor

    def _new(self, name: str) -> None:
        if not name or any(name in known for known in (self.tensors, self.flat, self.weights, self.initializers)):
            raise self.fail(f"output name '{name}' is empty or used twice")

    def _inputs(self, node: onnx.NodeProto, count: int) -> list[str]:
        if len(node.input) != count:
            raise self.fail(f"has {len(node.input)} inputs, expected {count}")
        return list(node.input)

    def _value(self, name: str, kind: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is not None and tensor.kind == "floats" and kind == "features":
            return self._value(LOADED, kind)
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
        if len(found) != len(node.attribute):
            raise self.fail("an attribute comes twice, or refers to one of a function")
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
        if not 1 <= min(strides) <= max(strides) <= MAX_STRIDE:
            raise self.fail(f"strides are {list(strides)}: strides must be positive, at most {MAX_STRIDE}")
        if min(pads) < 0 or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
            raise self.fail(f"pads are {list(pads)}, expected pads in [0, kernel)")
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
        """`PixelConv`."""
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
        self._unpack_budget(round_up(o, 16) * kh * round_up(kw * c, 4))
        height, width = self._window((h, w), (kh, kw), attributes["strides"], attributes["pads"])
        scale, bias = self._scale_and_bias(factors, o)
        zero_point = int(self._constant(zero_name, np.uint8, ()))
        self._add(node.output[0], Tensor("features", (o, height, width)), kh * kw * c)
        shape, strides, pads = (o, kh, kw, c), attributes["strides"], attributes["pads"]
        return Conv(
            node.name, node.op_type, source, node.output[0], shape, strides, pads, scale, bias, (), weight, zero_point  # type: ignore[arg-type]
        )  # fmt: skip

    def low_bit_conv(self, node: onnx.NodeProto) -> Conv:
        """`BinaryConv`, `TernaryConv` and `QuaternaryConv`."""
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
        planes = self._planes(node.op_type, rest[: len(names)], shape)
        self._unpack_budget(round_up(o, 16) * kh * kw * round_up(c, 64 if c > 32 else 32) * len(names))
        height, width = self._window((h, w), (kh, kw), attributes["strides"], attributes["pads"])
        scale, bias = self._scale_and_bias(rest[len(names) :], o)
        self._add(node.output[0], Tensor("features", (o, height, width)), weights)
        strides, pads = attributes["strides"], attributes["pads"]
        return Conv(node.name, node.op_type, source, node.output[0], (o, kh, kw, c), strides, pads, scale, bias, planes)  # type: ignore[arg-type]

    def _plane(self, name: str, rows: int, weights: int) -> NDArray[np.uint8]:
        plane = self._constant(name, np.uint8, (rows, fmt.plane_bytes(weights)))
        used = weights % 8
        if used and (plane[:, -1] >> used).any():
            raise self.fail(f"plane '{name}' has padding bits set after its {weights} weights")
        return plane

    def _planes(self, op: str, names: Sequence[str], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], ...]:
        planes = tuple(self._plane(name, shape[0], math.prod(shape[1:])) for name in names)
        if op in (fmt.TERNARY_CONV, fmt.TERNARY_WEIGHT) and (planes[0] & ~planes[1]).any():
            raise self.fail(f"sign '{names[0]}' is set where mask '{names[1]}' is 0")
        return planes

    def _unpack_budget(self, elements: int) -> None:
        """Weights of the whole file are bounded together: a plane of one bit becomes a byte or a float, channels are padded."""
        self.unpacked += elements
        if self.unpacked > MAX_ELEMENTS:
            raise self.fail(f"the weights of the file, unpacked, have more than {MAX_ELEMENTS} elements together")

    def low_bit_weight(self, node: onnx.NodeProto) -> None:
        """`BinaryWeight`, `TernaryWeight` and `QuaternaryWeight`."""
        names = fmt.PLANES[node.op_type]
        *planes, unit_name = self._inputs(node, len(names) + 1)
        o, kh, kw, c = shape = self._attributes(node, weight_shape=4)["weight_shape"]
        if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise self.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, C] of 1 to {MAX_ELEMENTS} elements")
        self._unpack_budget(math.prod(shape))
        integers = fmt.unpack_weight(node.op_type, self._planes(node.op_type, planes, shape), (o, kh, kw, c))
        unit = self._constant(unit_name, np.float32, (o, 1, 1, 1))
        if not (np.isfinite(unit).all() and (unit >= 0).all()):
            raise self.fail(f"unit '{unit_name}' must be finite and not negative")
        self._weight(node, integers.transpose(0, 3, 1, 2), unit, node.op_type.removesuffix("Weight").lower())

    def int8_weight(self, node: onnx.NodeProto) -> None:
        """`Int8Weight`."""
        name, unit_name = self._inputs(node, 2)
        self._attributes(node)
        dims = self._dims(name)
        if len(dims) not in (2, 4) or min(dims) < 1:
            raise self.fail(f"'{name}' has shape {dims[:8]}, expected [O, C] or [O, C, kh, kw]")
        self._unpack_budget(math.prod(dims))
        integers = self._constant(name, np.int8, dims)
        unit = self._constant(unit_name, np.float32, (dims[0], *[1] * (len(dims) - 1)))
        if not np.isfinite(unit).all():
            raise self.fail(f"unit '{unit_name}' must be finite")
        self._weight(node, integers, unit, "int8")

    def _weight(self, node: onnx.NodeProto, integers: NDArray[np.int8], unit: NDArray[np.float32], stored: str) -> None:
        self._new(node.output[0])
        with np.errstate(over="ignore"):  # an infinite weight is refused where it is read
            self.weights[node.output[0]] = integers.astype(np.float32) * unit, stored
        if integers.ndim == 2:
            self.dense[node.output[0]] = integers, unit.reshape(-1)

    def _float_weight(self, name: str, rank: int) -> tuple[NDArray[np.float32], str]:
        """A float weight of `rank` axes: what a node made, or an initializer."""
        if name in self.weights:
            value, stored = self.weights[name]
        else:
            dims = self._dims(name)
            self._unpack_budget(math.prod(dims))
            value, stored = self._constant(name, np.float32, dims), "float"
        if value.ndim != rank or not value.size:
            raise self.fail(f"weight '{name}' has shape {list(value.shape)[:8]}, expected {rank} axes")
        if not np.isfinite(value).all():
            raise self.fail(f"weight '{name}' must be finite")
        return value, stored

    def float_conv(self, node: onnx.NodeProto) -> FloatConv:
        """`Conv`."""
        source, weight_name, bias_name = self._inputs(node, 3)
        c, h, w = self._value(source, "features").shape
        weight, stored = self._float_weight(weight_name, 4)
        o, per_group, kh, kw = weight.shape
        a = self._attributes(node, strides=2, pads=4, group=0, kernel_shape=2)
        (group,) = a["group"]
        if a["kernel_shape"] != (kh, kw):
            raise self.fail(f"kernel_shape is {list(a['kernel_shape'])}, the weight's is {[kh, kw]}")
        if group < 1 or o % group or per_group * group != c:
            raise self.fail(
                f"weight '{weight_name}' has shape {list(weight.shape)}, group is {group}, the input has {c} channels"
            )
        self._unpack_budget(round_up(o, 16) * round_up(c, 16) * kh * kw)
        height, width = self._window((h, w), (kh, kw), a["strides"], a["pads"])
        bias = self._constant(bias_name, np.float32, (o,))
        if not np.isfinite(bias).all():
            raise self.fail(f"bias '{bias_name}' must be finite")
        self._add(node.output[0], Tensor("features", (o, height, width)), kh * kw * c)
        return FloatConv(node.name, self._named(source), node.output[0], weight, bias, a["strides"], a["pads"], group, stored)  # type: ignore[arg-type]

    def _named(self, source: str) -> str:
        """The features that an input of this name stands for."""
        return LOADED if self.tensors[source].kind == "floats" else source

    def normalize(self, node: onnx.NodeProto) -> Load:
        """`Normalize`."""
        source, *names = self._inputs(node, 3)
        self._attributes(node)
        shape = self._value(source, "pixels").shape
        mean, std = (self._constant(name, np.float32, (shape[0], 1, 1)).reshape(-1) for name in names)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise self.fail(f"mean '{names[0]}' must be finite, std '{names[1]}' positive and finite")
        self._add(node.output[0], Tensor("features", shape))
        return Load(node.name, source, node.output[0], mean, std)

    def fake_quantize(self, node: onnx.NodeProto) -> FakeQuantize:
        """`FakeQuantize`."""
        source, step_name = self._inputs(node, 2)
        shape = self._value(source, "features").shape
        low, high = self._attributes(node, limits=2)["limits"]
        if not -(1 << 23) <= low <= high <= 1 << 23:
            raise self.fail(f"limits are {[low, high]}, expected two ascending integers of at most 24 bits")
        step = float(self._constant(step_name, np.float32, ()))
        if not (math.isfinite(step) and step > 0):
            raise self.fail(f"step '{step_name}' is {step}, expected a positive finite number")
        self._add(node.output[0], Tensor("features", shape))
        return FakeQuantize(node.name, self._named(source), node.output[0], step, low, high)

    def bipolar(self, node: onnx.NodeProto) -> FakeQuantize:
        """`Bipolar`."""
        source, scale_name = self._inputs(node, 2)
        shape = self._value(source, "features").shape
        self._attributes(node)
        scale = float(self._constant(scale_name, np.float32, ()))
        if not (math.isfinite(scale) and scale > 0):
            raise self.fail(f"scale '{scale_name}' is {scale}, expected a positive finite number")
        self._add(node.output[0], Tensor("features", shape))
        return FakeQuantize(node.name, self._named(source), node.output[0], None, -scale, scale)

    def quantize(self, node: onnx.NodeProto) -> Quantizer:
        """`Quantize`."""
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
        return Quantizer(node.name, self._named(source), node.output[0], bits, step)

    def sign(self, node: onnx.NodeProto) -> Quantizer:
        """`Sign`."""
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._add(node.output[0], Tensor("codes", self._value(source, "features").shape, 1))
        return Quantizer(node.name, self._named(source), node.output[0], 1, None)

    def channel_sign(self, node: onnx.NodeProto) -> Quantizer:
        """`ChannelSign`."""
        source, threshold_name = self._inputs(node, 2)
        self._attributes(node)
        features = self._value(source, "features")
        thresholds = self._channels(threshold_name, features)
        self._add(node.output[0], Tensor("codes", features.shape, 1))
        return Quantizer(node.name, self._named(source), node.output[0], 1, None, thresholds)

    def pad_shortcut(self, node: onnx.NodeProto) -> PadShortcut:
        """`PadShortcut`."""
        (source,) = self._inputs(node, 1)
        c, h, w = self._value(source, "features").shape
        attributes = self._attributes(node, steps=2, pads=8)
        (sy, sx), pads = attributes["steps"], attributes["pads"]
        if min(sy, sx) < 1 or max(sy, sx) > MAX_STRIDE or min(pads) < 0 or any(pads[i] for i in (0, 2, 3, 4, 6, 7)):
            raise self.fail(
                f"steps {[sy, sx]}, pads {list(pads)}: steps must be positive, at most {MAX_STRIDE}, pads only on channels and"
                " not negative"
            )
        self._add(node.output[0], Tensor("features", (pads[1] + c + pads[5], -(-h // sy), -(-w // sx))))
        return PadShortcut(node.name, self._named(source), node.output[0], (sy, sx), pads[1], pads[5])

    def relu(self, node: onnx.NodeProto) -> Relu:
        """`Relu`."""
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        self._add(node.output[0], self._value(source, "features"))
        return Relu(node.name, self._named(source), node.output[0])

    def prelu(self, node: onnx.NodeProto) -> PRelu:
        """`PRelu`."""
        source, slope_name = self._inputs(node, 2)
        self._attributes(node)
        features = self._value(source, "features")
        slope = self._channels(slope_name, features)
        self._add(node.output[0], features)
        return PRelu(node.name, self._named(source), node.output[0], slope)

    def _channels(self, name: str, features: Tensor) -> NDArray[np.float32]:
        """A finite float32 constant [C, 1, 1] of the features' channels, as [C]."""
        values = self._constant(name, np.float32, (features.shape[0], 1, 1)).reshape(-1)
        if not np.isfinite(values).all():
            raise self.fail(f"constant '{name}' must be finite")
        return values

    def add(self, node: onnx.NodeProto) -> Add:
        """`Add`."""
        first, second = self._inputs(node, 2)
        self._attributes(node)
        a, b = self._value(first, "features"), self._value(second, "features")
        if a != b:
            raise self.fail(f"inputs have shapes {list(a.shape)} and {list(b.shape)}, expected equal ones")
        self._add(node.output[0], a)
        return Add(node.name, (self._named(first), self._named(second)), node.output[0])

    def max_pool(self, node: onnx.NodeProto) -> MaxPool:
        """`MaxPool`."""
        (source,) = self._inputs(node, 1)
        c, h, w = self._value(source, "features").shape
        a = self._attributes(node, kernel_shape=2, strides=2, pads=4)
        if min(a["kernel_shape"]) < 1:
            raise self.fail(f"kernel_shape is {list(a['kernel_shape'])}, expected positive sizes")
        height, width = self._window((h, w), a["kernel_shape"], a["strides"], a["pads"])
        window = min(a["kernel_shape"][0], h) * min(a["kernel_shape"][1], w)
        self._add(node.output[0], Tensor("features", (c, height, width)), window)
        return MaxPool(node.name, self._named(source), node.output[0], a["kernel_shape"], a["strides"], a["pads"])  # type: ignore[arg-type]

    def average_pool(self, node: onnx.NodeProto) -> AveragePool:
        """`GlobalAveragePool`."""
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        c, _, _ = self._value(source, "features").shape
        self._add(node.output[0], Tensor("features", (c, 1, 1)))
        return AveragePool(node.name, self._named(source), node.output[0])

    def flatten(self, node: onnx.NodeProto) -> None:
        """`Flatten` of single pixels."""
        (source,) = self._inputs(node, 1)
        self._attributes(node)
        shape = self._value(source, "features").shape
        if shape[1:] != (1, 1):
            raise self.fail(f"input '{source}' has shape {list(shape)}, expected one pixel")
        self._new(node.output[0])
        self.flat[node.output[0]] = self._named(source)

    def gemm(self, node: onnx.NodeProto) -> Classifier:
        """`Gemm`."""
        source, weight_name, bias_name = self._inputs(node, 3)
        if source not in self.flat:
            raise self.fail(f"input '{source}' is not the output of Flatten")
        origin = self.flat[source]
        if self._attributes(node, transB=0)["transB"] != (1,):
            raise self.fail("attribute 'transB' is not 1")
        weight, stored = self._float_weight(weight_name, 2)
        if weight.shape[1] != self.tensors[origin].shape[0]:
            raise self.fail(
                f"weight '{weight_name}' has shape {list(weight.shape)}, expected [classes, {self.tensors[origin].shape[0]}]"
            )
        bias = self._constant(bias_name, np.float32, (weight.shape[0],))
        if not np.isfinite(bias).all():
            raise self.fail(f"bias '{bias_name}' must be finite")
        self._add(node.output[0], Tensor("logits", (weight.shape[0], 1, 1)), weight.shape[1])
        return Classifier(node.name, origin, node.output[0], weight, bias, stored, *self.dense.get(weight_name, (None, None)))


READERS: dict[tuple[str, str], Callable[[NodeReader, onnx.NodeProto], Node | None]] = {
    (fmt.DOMAIN, fmt.PIXEL_CONV): NodeReader.pixel_conv,
    **{(fmt.DOMAIN, op): NodeReader.low_bit_conv for op in fmt.PLANES if op not in fmt.WEIGHT_OPERATORS},
    **{(fmt.DOMAIN, op): NodeReader.low_bit_weight for op in fmt.WEIGHT_OPERATORS},
    (fmt.DOMAIN, fmt.INT8_WEIGHT): NodeReader.int8_weight,
    (fmt.DOMAIN, fmt.NORMALIZE): NodeReader.normalize,
    (fmt.DOMAIN, fmt.FAKE_QUANTIZE): NodeReader.fake_quantize,
    (fmt.DOMAIN, fmt.BIPOLAR): NodeReader.bipolar,
    ("", "Conv"): NodeReader.float_conv,
    (fmt.DOMAIN, fmt.QUANTIZE): NodeReader.quantize,
    (fmt.DOMAIN, fmt.SIGN): NodeReader.sign,
    (fmt.DOMAIN, fmt.CHANNEL_SIGN): NodeReader.channel_sign,
    (fmt.DOMAIN, fmt.PAD_SHORTCUT): NodeReader.pad_shortcut,
    ("", "Relu"): NodeReader.relu,
    ("", "PRelu"): NodeReader.prelu,
    ("", "Add"): NodeReader.add,
    ("", "MaxPool"): NodeReader.max_pool,
    ("", "GlobalAveragePool"): NodeReader.average_pool,
    ("", "Flatten"): NodeReader.flatten,
    ("", "Gemm"): NodeReader.gemm,
}
