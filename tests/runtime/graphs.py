"""Builds packed files by FORMAT.md, independently of `export/`: a small graph builder."""

import hashlib
import json

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from bitplane.format.functions import function

DOMAIN = "bitplane"
FILE_KEY = "bitplane.file_sha256"
OPSETS = [h.make_opsetid("", 18), h.make_opsetid(DOMAIN, 1)]


class Builder:
    """Adds nodes with random weights; every method returns its output's name and keeps `shapes` of all tensors."""

    def __init__(self, seed, channels, height, width):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers, self.planes = [], [], []
        self.shapes = {"input": (channels, height, width)}
        self.floats = False  # whether the input is float32
        self.bits = {}
        self.count = 0
        self.levels = (1, 3)  # of FourLevelConv and FourLevelWeight
        self.weight_bits = None  # what the bits of both planes are, instead of random
        self.meta = {"bitplane.format_version": "1", "bitplane.model": "test", "bitplane.classes": json.dumps(["a", "b"])}

    def name(self, stem):
        self.count += 1
        return f"{stem}{self.count}"

    def init(self, value, stem):
        name = self.name(stem)
        self.initializers.append(nh.from_array(np.asarray(value), name))
        return name

    def _factors(self, o, spread, unit):
        if unit:
            return [self.init(np.ones((o, 1, 1), np.float32), "scale"), self.init(np.zeros((o, 1, 1), np.float32), "bias")]
        scale = self.rng.uniform(0.5, 1.5, (o, 1, 1)) / spread
        return [
            self.init(scale.astype(np.float32), "scale"),
            self.init(self.rng.normal(0.3, 0.5, (o, 1, 1)).astype(np.float32), "bias"),
        ]

    def _out(self, source, o, kh, kw, strides, pads):
        _, height, width = self.shapes[source]
        return o, (height + pads[0] + pads[2] - kh) // strides[0] + 1, (width + pads[1] + pads[3] - kw) // strides[1] + 1

    def pixel_conv(self, o, k, stride=1, pad=None, zero_point=121, largest=64, smallest=None):
        c = self.shapes["input"][0]
        pads = [k // 2 if pad is None else pad] * 4
        weight = self.rng.integers(-largest if smallest is None else smallest, largest + 1, (o, c, k, k)).astype(np.int8)
        y = self.name("stem")
        inputs = [
            "input",
            self.init(weight, "weight"),
            self.init(np.uint8(zero_point), "zero"),
            *self._factors(o, 2000 * k, False),
        ]
        self.nodes.append(h.make_node("PixelConv", inputs, [y], name=y, domain=DOMAIN, strides=[stride, stride], pads=pads))
        self.shapes[y] = self._out("input", o, k, k, (stride, stride), pads)
        return y

    def _planes(self, kind, o, kh, kw, c):
        def plane(bits):
            packed = np.packbits(bits.reshape(o, -1).astype(np.uint8), axis=1, bitorder="little")
            self.planes.append(packed)
            return self.init(packed, "plane")

        first, second = self.rng.integers(0, 2, (2, o, kh, kw, c))
        if self.weight_bits is not None:
            first[:], second[:] = self.weight_bits
        if kind == "Ternary":
            return [plane(first & second), plane(second)]
        return [plane(first)] if kind == "Binary" else [plane(first), plane(second)]

    def _levels(self, kind):
        return {"levels": list(self.levels)} if kind == "FourLevel" else {}

    def conv(self, x, kind, o, kernel, strides=(1, 1), pads=(0, 0, 0, 0), unit=False):
        c, (kh, kw) = self.shapes[x][0], kernel
        k = kh * kw * c
        planes = self._planes(kind, o, kh, kw, c)
        size = {"Quaternary": 6, "FourLevel": 0.7 * self.levels[1]}.get(kind, 0.7)
        spread = k**0.5 * (2 ** self.bits[x] - 1) * size
        y = self.name("conv")
        self.nodes.append(
            h.make_node(
                f"{kind}Conv", [x, *planes, *self._factors(o, spread, unit)], [y], name=y, domain=DOMAIN,
                weight_shape=[o, kh, kw, c], strides=list(strides), pads=list(pads), **self._levels(kind),
            )
        )  # fmt: skip
        self.shapes[y] = self._out(x, o, kh, kw, strides, pads)
        return y

    def quantize(self, x, bits, sign=True):
        y = self.name("codes")
        if bits == 1 and sign:
            self.nodes.append(h.make_node("Sign", [x], [y], name=y, domain=DOMAIN))
        else:
            top = 2**bits - 1
            step = self.init(np.float32(self.rng.uniform(1, 2) / top), "step")
            self.nodes.append(h.make_node("Quantize", [x, step], [y], name=y, domain=DOMAIN, top=[top]))
        self.shapes[y], self.bits[y] = self.shapes[x], bits
        return y

    def _channels(self, x, mean, spread, stem):
        values = self.rng.normal(mean, spread, (self.shapes[x][0], 1, 1))
        return self.init(values.astype(np.float32), stem)

    def channel_sign(self, x):
        y = self.name("codes")
        self.nodes.append(h.make_node("ChannelSign", [x, self._channels(x, 0.2, 0.5, "threshold")], [y], name=y, domain=DOMAIN))
        self.shapes[y], self.bits[y] = self.shapes[x], 1
        return y

    def prelu(self, x):
        return self.op("PRelu", x, self._channels(x, 0.3, 0.6, "slope"))

    def clip(self, x):
        low = self.rng.choice([0.0, -0.5, 0.2])
        return self.op("Clip", x, self.init(np.float32(low), "low"), self.init(np.float32(low + 0.9), "high"))

    def op(self, kind, *inputs, shape=None, domain=None, **attributes):
        y = self.name(kind.lower())
        self.nodes.append(h.make_node(kind, list(inputs), [y], name=y, domain=domain, **attributes))
        self.shapes[y] = self.shapes[inputs[0]] if shape is None else shape
        return y

    def pad_shortcut(self, x, front, back, step):
        c, height, width = self.shapes[x]
        shape = (front + c + back, -(-height // step), -(-width // step))
        pads = [0, front, 0, 0, 0, back, 0, 0]
        return self.op("PadShortcut", x, shape=shape, domain=DOMAIN, steps=[step, step], pads=pads)

    def normalize(self):
        c = self.shapes["input"][0]
        factors = [self.rng.uniform(low, high, (c, 1, 1)).astype(np.float32) for low, high in ((100, 140), (50, 70))]
        return self.op("Normalize", "input", *(self.init(v, "factor") for v in factors), domain=DOMAIN)

    def float_conv(self, x, o, kernel, strides=(1, 1), pads=(0, 0, 0, 0), group=1, stored="float"):
        """A float convolution whose weight is an initializer, or what a ...Weight operator makes."""
        c, (kh, kw) = self.shapes[x][0] // group, kernel
        spread = (c * kh * kw) ** 0.5
        if stored == "float":
            weight = self.init((self.rng.normal(0, 1, (o, c, kh, kw)) / spread).astype(np.float32), "weight")
        elif stored == "Int8":
            integers = self.init(self.rng.integers(-127, 128, (o, c, kh, kw)).astype(np.int8), "integers")
            unit = self.init((self.rng.uniform(0.5, 1.5, (o, 1, 1, 1)) / spread / 70).astype(np.float32), "unit")
            weight = self.op("Int8Weight", integers, unit, shape=(), domain=DOMAIN)
        else:
            planes = self._planes(stored, o, kh, kw, c)
            size = {"Binary": 1, "Ternary": 1, "Quaternary": 7, "FourLevel": self.levels[1]}[stored]
            unit = self.init((self.rng.uniform(0.5, 1.5, (o, 1, 1, 1)) / spread / size).astype(np.float32), "unit")
            attributes = {"weight_shape": [o, kh, kw, c], **self._levels(stored)}
            weight = self.op(f"{stored}Weight", *planes, unit, shape=(), domain=DOMAIN, **attributes)
        bias = self.init(self.rng.normal(0, 0.3, o).astype(np.float32), "bias")
        shape = self._out(x, o, kh, kw, strides, pads)
        attributes = {
            "dilations": [1, 1],
            "group": group,
            "kernel_shape": [kh, kw],
            "pads": list(pads),
            "strides": list(strides),
        }
        return self.op("Conv", x, weight, bias, shape=shape, **attributes)

    def fake_quantize(self, x, low, high, step=0.1):
        return self.op("FakeQuantize", x, self.init(np.float32(step), "step"), domain=DOMAIN, limits=[low, high])

    def bipolar(self, x, scale=0.7):
        return self.op("Bipolar", x, self.init(np.float32(scale), "scale"), domain=DOMAIN)

    def max_pool(self, x, k, stride, pad):
        shape = self._out(x, self.shapes[x][0], k, k, (stride, stride), [pad] * 4)
        return self.op("MaxPool", x, shape=shape, kernel_shape=[k, k], strides=[stride, stride], pads=[pad] * 4)

    def classifier(self, x, classes=10, stored="float"):
        c = self.shapes[x][0]
        if stored == "Int8":
            integers = self.init(self.rng.integers(-128, 128, (classes, c)).astype(np.int8), "integers")
            unit = self.init((self.rng.uniform(-1, 1, (classes, 1)) / 70).astype(np.float32), "unit")
            weight = self.op("Int8Weight", integers, unit, shape=(), domain=DOMAIN)
        else:
            weight = self.init(self.rng.normal(0, 1, (classes, c)).astype(np.float32), "weight")
        bias = self.init(self.rng.normal(0, 1, classes).astype(np.float32), "bias")
        p = self.op("GlobalAveragePool", x, shape=(c, 1, 1))
        f = self.op("Flatten", p, shape=(c,))
        self.nodes.append(h.make_node("Gemm", [f, weight, bias], ["logits"], name="fc", transB=1))
        self.shapes["logits"] = (classes,)

    def model(self, outputs=()):
        """The model; `outputs` adds intermediate values to the graph's outputs (for the oracle)."""

        def info(name):
            is_bytes = name in self.bits or (name == "input" and not self.floats)
            kind = T.UINT8 if is_bytes else T.FLOAT
            return h.make_tensor_value_info(name, kind, ["batch", *self.shapes[name]])

        graph = h.make_graph(self.nodes, "g", [info("input")], [info(n) for n in ("logits", *outputs)], self.initializers)
        used = dict.fromkeys(n.op_type for n in self.nodes if n.domain == DOMAIN)
        model = h.make_model(graph, functions=[function(op) for op in used], opset_imports=OPSETS, ir_version=8)
        digest = hashlib.sha256(b"".join(p.tobytes() for p in self.planes)).hexdigest()
        constants = hashlib.sha256()
        for t in graph.initializer:
            constants.update(f"{t.name}\0{t.data_type}:{','.join(map(str, t.dims))}\0".encode() + nh.to_array(t).tobytes())
        digests = {"bitplane.planes_sha256": digest, "bitplane.weights_sha256": constants.hexdigest()}
        h.set_model_props(model, {**self.meta, **digests})
        return model

    def data(self):
        """The model's bytes, with the digest of the whole file since 1.4."""
        is_old = self.meta["bitplane.format_version"] in ("1", "1.0", "1.1", "1.2", "1.3")
        return self.model().SerializeToString() if is_old else sealed(self.model())

    def images(self, count):
        if self.floats:
            return self.rng.normal(0, 1, (count, *self.shapes["input"])).astype(np.float32)
        return self.rng.integers(0, 256, (count, *self.shapes["input"])).astype(np.uint8)


def sealed(model):
    """The bytes of a model with the digest of them all in its metadata."""
    kept = {p.key: p.value for p in model.metadata_props if p.key != FILE_KEY}
    h.set_model_props(model, {**kept, FILE_KEY: "0" * 64})
    data = model.SerializeToString(deterministic=True)
    at = data.index(FILE_KEY.encode() + b"\x12\x40" + b"0" * 64) + len(FILE_KEY) + 2
    return data[:at] + hashlib.sha256(data).hexdigest().encode() + data[at + 64 :]


def resnet(seed, kind, bits, size, widths=(16, 32, 64), blocks=3, shortcut="A", stem=3, pool=False, react=False):
    """A CIFAR-like ResNet in the two forms of DESIGN.md (1 bit: Bi-Real, or ReActNet)."""
    b = Builder(seed, 3, size, size)
    x = b.pixel_conv(widths[0], stem, 2 if stem == 7 else 1)
    if bits > 1:
        x = b.op("Relu", x)
    if pool:
        x = b.max_pool(x, 3, 2, 1)
    for i, width in enumerate(widths):
        for j in range(blocks):
            stride = 2 if i and not j else 1
            a = b.channel_sign(x) if react else b.quantize(x, bits)
            y = b.conv(a, kind, width, (3, 3), (stride, stride), (1, 1, 1, 1))
            if b.shapes[x] == b.shapes[y]:
                s = x
            elif shortcut == "A":
                s = b.pad_shortcut(x, 0, width - b.shapes[x][0], stride)
            else:
                s = b.conv(a, kind, width, (1, 1), (stride, stride))
            if react:
                y = b.prelu(b.op("Add", y, s))
                z = b.conv(b.channel_sign(y), kind, width, (3, 3), (1, 1), (1, 1, 1, 1))
                x = b.prelu(b.op("Add", z, y))
            elif bits == 1:
                y = b.op("Add", y, s)
                z = b.conv(b.quantize(y, 1), kind, width, (3, 3), (1, 1), (1, 1, 1, 1))
                x = b.op("Add", z, y)
            else:
                z = b.conv(b.quantize(b.op("Relu", y), bits), kind, width, (3, 3), (1, 1), (1, 1, 1, 1))
                x = b.op("Relu", b.op("Add", z, s))
    b.classifier(x)
    return b
