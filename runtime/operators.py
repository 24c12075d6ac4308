"""The operators of a packed file (`FORMAT.md`, Graph), one method each: a checked ONNX node to a node of `model`."""

import math
from collections.abc import Callable

import numpy as np
import onnx

from bitplane.format import names as fmt
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.format.pack import unpack_weight
from bitplane.runtime.model import (
    MAX_ELEMENTS,
    MAX_STRIDE,
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
from bitplane.runtime.values import Values, round_up


class NodeReader(Values):
    """Checks one node after another and makes the runtime's own of it."""

    def pixel_conv(self, node: onnx.NodeProto) -> Conv:
        """`PixelConv`."""
        source, weight_name, zero_name, *factors = self._inputs(node, 5)
        c, h, w = self._value(source, "pixels").shape
        dims = self._dims(weight_name)
        if len(dims) != 4 or min(dims) < 1 or dims[1] != c or math.prod(dims) > MAX_ELEMENTS:
            raise self.fail(f"weight '{weight_name}' has shape {dims}, expected [O, {c}, kh, kw]")
        weight = self._constant(weight_name, np.int8, dims)
        limit = PIXEL_WEIGHT_LIMIT
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
        names = fmt.LEVELS[node.op_type].plane_names
        source, *rest = self._inputs(node, 3 + len(names))
        codes = self._value(source, "codes")
        c, h, w = codes.shape
        attributes = self._attributes(node, weight_shape=4, strides=2, pads=4)
        o, kh, kw, channels = shape = attributes["weight_shape"]
        if min(shape) < 1 or channels != c or math.prod(shape) > MAX_ELEMENTS:
            raise self.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, {c}]")
        weights = kh * kw * c
        if weights * (2**codes.bits - 1) * 30 >= 1 << 31:
            raise self.fail(f"sums over {weights} weights overflow 32 bits")
        planes = self._planes(node.op_type, rest[: len(names)], shape)
        self._unpack_budget(round_up(o, 16) * kh * kw * round_up(c, 64 if c > 32 else 32) * len(names))
        height, width = self._window((h, w), (kh, kw), attributes["strides"], attributes["pads"])
        scale, bias = self._scale_and_bias(rest[len(names) :], o)
        self._add(node.output[0], Tensor("features", (o, height, width)), weights)
        strides, pads = attributes["strides"], attributes["pads"]
        return Conv(node.name, node.op_type, source, node.output[0], (o, kh, kw, c), strides, pads, scale, bias, planes)  # type: ignore[arg-type]

    def low_bit_weight(self, node: onnx.NodeProto) -> None:
        """`BinaryWeight`, `TernaryWeight` and `QuaternaryWeight`."""
        names = fmt.LEVELS[node.op_type].plane_names
        *planes, unit_name = self._inputs(node, len(names) + 1)
        o, kh, kw, c = shape = self._attributes(node, weight_shape=4)["weight_shape"]
        if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise self.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, C] of 1 to {MAX_ELEMENTS} elements")
        self._unpack_budget(math.prod(shape))
        integers = unpack_weight(fmt.LEVELS[node.op_type], self._planes(node.op_type, planes, shape), (o, kh, kw, c))
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
        unit = self._finite("unit", unit_name, (dims[0], *[1] * (len(dims) - 1)))
        self._weight(node, integers, unit, "int8")

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
        bias = self._finite("bias", bias_name, (o,))
        self._add(node.output[0], Tensor("features", (o, height, width)), kh * kw * c)
        return FloatConv(node.name, self._named(source), node.output[0], weight, bias, a["strides"], a["pads"], group, stored)  # type: ignore[arg-type]

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
        step = self._positive("step", step_name)
        self._add(node.output[0], Tensor("features", shape))
        return FakeQuantize(node.name, self._named(source), node.output[0], step, low, high)

    def bipolar(self, node: onnx.NodeProto) -> FakeQuantize:
        """`Bipolar`."""
        source, scale_name = self._inputs(node, 2)
        shape = self._value(source, "features").shape
        self._attributes(node)
        scale = self._positive("scale", scale_name)
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
        step = self._positive("step", step_name)
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
        thresholds = self._finite("threshold", threshold_name, (features.shape[0], 1, 1)).reshape(-1)
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
        slope = self._finite("slope", slope_name, (features.shape[0], 1, 1)).reshape(-1)
        self._add(node.output[0], features)
        return PRelu(node.name, self._named(source), node.output[0], slope)

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
        bias = self._finite("bias", bias_name, (weight.shape[0],))
        self._add(node.output[0], Tensor("logits", (weight.shape[0], 1, 1)), weight.shape[1])
        return Classifier(node.name, origin, node.output[0], weight, bias, stored, *self.dense.get(weight_name, (None, None)))


READERS: dict[tuple[str, str], Callable[[NodeReader, onnx.NodeProto], Node | None]] = {
    (fmt.DOMAIN, fmt.PIXEL_CONV): NodeReader.pixel_conv,
    **{(fmt.DOMAIN, op): NodeReader.low_bit_conv for op in fmt.LEVELS if op not in fmt.WEIGHT_OPERATORS},
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
