"""Changes of a model, each by a random generator: what a stranger could write in one field."""

import random
import struct
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "bitplane"
PLANES = {
    **{f"{kind}{what}": planes for what in ("Conv", "Weight") for kind, planes in (("Binary", 1), ("Ternary", 2))},
    **{f"{kind}{what}": 2 for what in ("Conv", "Weight") for kind in ("Quaternary", "FourLevel")},
}
INTEGERS = [
    *(0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 64, 100, 255, 256, 1000, 4096, 65535, 65536, 1 << 20, 1 << 24, 1 << 28),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 1 << 40, 1 << 61, 1 << 62, 2**63 - 1),
]  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-20, 1e20, 3.4e38, -3.4e38, float("nan"), float("inf"), float("-inf")]
Model = onnx.ModelProto
Rng = random.Random


def _integer(rng: Rng, now: int) -> int:
    value = rng.choice([*INTEGERS, now + 1, now - 1, 2 * now, -now, now // 2])
    return max(-(2**63), min(2**63 - 1, -value if rng.random() < 0.1 else value))


def _names(model: Model) -> list[str]:
    values = [o for n in model.graph.node for o in n.output]
    return [*values, "input", "logits", "", "nowhere", *(t.name for t in model.graph.initializer)]


def _sizes(model: Model) -> list[onnx.TensorShapeProto.Dimension]:
    """Sizes of the first input, or of nothing where another change removed them."""
    found = [d for i in model.graph.input[:1] for d in i.type.tensor_type.shape.dim]
    return found or [onnx.TensorShapeProto.Dimension()]


def input_size(model: Model, rng: Rng) -> None:
    dim = rng.choice(_sizes(model))
    dim.dim_value = _integer(rng, dim.dim_value)


def other_input_size(model: Model, rng: Rng) -> None:
    for dim in _sizes(model)[2:]:
        dim.dim_value = rng.randint(1, 50)


def input_type(model: Model, rng: Rng) -> None:
    if not model.graph.input:
        return
    kind = model.graph.input[0].type.tensor_type
    if rng.random() < 0.5:
        kind.elem_type = rng.randrange(20)
    elif rng.random() < 0.5:
        rng.choice(_sizes(model)).dim_param = "n"
    elif kind.shape.dim:
        del kind.shape.dim[rng.randrange(len(kind.shape.dim))]


def value_info(model: Model, rng: Rng) -> None:
    side = rng.choice([model.graph.input, model.graph.output])
    if not side:
        return
    if rng.random() < 0.5:
        side[0].name = rng.choice(_names(model))
    elif rng.random() < 0.5:
        side.append(rng.choice([*model.graph.input, *model.graph.output]))
    else:
        del side[0]


def dims(model: Model, rng: Rng) -> None:
    t = rng.choice(model.graph.initializer)
    if not t.dims or rng.random() < 0.2:
        t.dims.append(_integer(rng, 1))
    elif rng.random() < 0.2:
        del t.dims[-1]
    else:
        at = rng.randrange(len(t.dims))
        t.dims[at] = _integer(rng, t.dims[at])


def resized(model: Model, rng: Rng) -> None:
    """Another shape, with data as long as it says."""
    t = rng.choice(model.graph.initializer)
    dims(model, rng) if rng.random() < 0.3 else None
    array = numpy_helper.to_array(t) if not t.external_data and t.HasField("raw_data") and _whole(t) else np.zeros((3, 3), "f4")
    shape = [max(0, min(s + rng.choice([-1, 0, 0, 1, 7]), 5000)) for s in array.shape]
    if np.prod(shape, dtype=float) < 1e6:
        t.CopyFrom(numpy_helper.from_array(np.resize(array, shape).astype(array.dtype), t.name))


def _whole(t: TensorProto) -> bool:
    try:
        numpy_helper.to_array(t)
    except (ValueError, TypeError, KeyError):
        return False
    return True


def data_type(model: Model, rng: Rng) -> None:
    rng.choice(model.graph.initializer).data_type = rng.randrange(26)


def data_length(model: Model, rng: Rng) -> None:
    t = rng.choice(model.graph.initializer)
    t.raw_data = rng.choice([t.raw_data[:-1], b"", t.raw_data * 2, t.raw_data + b"\0" * 4, t.raw_data[: len(t.raw_data) // 2]])


def data_field(model: Model, rng: Rng) -> None:
    t = rng.choice(model.graph.initializer)
    if rng.random() < 0.5 and _whole(t) and t.data_type in (1, 2, 3):
        values = numpy_helper.to_array(t).ravel()
        t.ClearField("raw_data")
        (t.float_data if t.data_type == 1 else t.int32_data).extend(values.tolist())
        return
    rng.choice([t.float_data, t.int32_data]).extend([1] * rng.choice([1, 100]))
    if rng.random() < 0.3:
        t.int64_data.append(2**62)
    if rng.random() < 0.5:
        t.ClearField("raw_data")


def value(model: Model, rng: Rng) -> None:
    """One element of a constant: a float from the edges of float32, or any byte."""
    t = rng.choice([t for t in model.graph.initializer if t.raw_data] or model.graph.initializer[:1])
    data = bytearray(t.raw_data)
    if t.data_type == TensorProto.FLOAT and len(data) >= 4:
        with np.errstate(over="ignore"):
            struct.pack_into("<f", data, 4 * rng.randrange(len(data) // 4), np.float32(rng.choice(FLOATS)))
    elif data:
        data[rng.randrange(len(data))] = rng.randrange(256)
    t.raw_data = bytes(data)


def all_values(model: Model, rng: Rng) -> None:
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.raw_data]
    if floats:
        t = rng.choice(floats)
        t.raw_data = struct.pack("<f", np.float32(rng.choice(FLOATS))) * (len(t.raw_data) // 4)


def step(model: Model, rng: Rng) -> None:
    constants = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("Quantize", "FakeQuantize", "Bipolar")]
    if nodes and (t := constants.get(list(rng.choice(nodes).input)[-1])):
        t.CopyFrom(numpy_helper.from_array(np.float32(rng.choice([*FLOATS, 0.03, 0.3, 3.0])), t.name))


def initializer(model: Model, rng: Rng) -> None:
    """Remove, copy, rename, swap or place a constant outside the file."""
    constants = model.graph.initializer
    at = rng.randrange(len(constants))
    kind = rng.choice(["remove", "copy", "rename", "swap", "external"])
    if kind == "remove":
        del constants[at]
    elif kind == "copy":
        constants.append(constants[at])
        constants[-1].name = rng.choice([constants[at].name, "copy"])
    elif kind == "rename":
        constants[at].name = rng.choice(_names(model))
    elif kind == "swap":
        other = rng.randrange(len(constants))
        constants[at].name, constants[other].name = constants[other].name, constants[at].name
    else:
        constants[at].data_location = TensorProto.EXTERNAL
        constants[at].external_data.add(key="location", value="/etc/hostname")


def attribute(model: Model, rng: Rng) -> None:
    """Any number of an attribute, its length, its type, its presence."""
    node = rng.choice([n for n in model.graph.node if n.attribute] or [model.graph.node[0]])
    if not node.attribute:
        return
    a = rng.choice(node.attribute)
    kind = rng.random()
    if kind < 0.6 and a.ints:
        at = rng.randrange(len(a.ints))
        a.ints[at] = _integer(rng, a.ints[at])
    elif kind < 0.6:
        a.i = _integer(rng, a.i)
    elif kind < 0.65:
        a.ints.append(rng.choice(INTEGERS))
    elif kind < 0.7:
        a.CopyFrom(helper.make_attribute(a.name, rng.choice([1.5, "text", [1.0, 2.0], [b"x"], 3])))
    elif kind < 0.75:
        a.type = rng.randrange(1, 12)
    elif kind < 0.8:
        a.ref_attr_name = "pads"
    elif kind < 0.85:
        node.attribute.append(a)
        node.attribute[-1].ints[:1] = [2]
    elif kind < 0.9:
        a.name = rng.choice(["pads", "strides", "group", "axis", "dilations", "auto_pad", ""])
    elif kind < 0.95:
        node.attribute.append(
            helper.make_attribute(rng.choice(["dilations", "alpha", "ceil_mode", "axis"]), rng.choice([1, 2]))
        )
    else:
        node.attribute.remove(a)


def levels(model: Model, rng: Rng) -> None:
    found = [a for n in model.graph.node for a in n.attribute if a.name == "levels"]
    if found:
        low, high = rng.randint(1, 64), rng.randint(1, 64)
        rng.choice(found).ints[:] = [rng.choice([low, low, *INTEGERS]), rng.choice([high, high, *INTEGERS])]


def strides(model: Model, rng: Rng) -> None:
    nodes = [n for n in model.graph.node if any(a.name in ("strides", "steps") for a in n.attribute)]
    if nodes:
        a = next(a for a in rng.choice(nodes).attribute if a.name in ("strides", "steps"))
        a.ints[:] = [rng.choice([1, 2, 3, 5, *INTEGERS]) for _ in a.ints]


def pads(model: Model, rng: Rng) -> None:
    nodes = [n for n in model.graph.node if any(a.name == "pads" for a in n.attribute)]
    if nodes:
        a = next(a for a in rng.choice(nodes).attribute if a.name == "pads")
        a.ints[:] = [rng.choice([0, 0, 1, 1, 2, 3, rng.choice(INTEGERS)]) for _ in a.ints]


def kernel(model: Model, rng: Rng) -> None:
    """Another kernel and padding, with planes as long as they must be."""
    constants = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in PLANES and n.op_type.endswith("Conv")]
    if not nodes:
        return
    node = rng.choice(nodes)
    attributes = {a.name: a for a in node.attribute}
    if len(attributes.get("weight_shape", helper.make_attribute("weight_shape", [0])).ints) != 4:
        return
    o, _, _, c = attributes["weight_shape"].ints
    kh, kw = rng.choice([1, 2, 3, 4, 5, 7]), rng.choice([1, 2, 3, 4, 5, 7])
    if not 0 < kh * kw * o * c < 1 << 20 or any(name not in constants for name in node.input[1:3]):
        return
    bits = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 2, (2, o, kh * kw * c)).astype(np.uint8)
    bits[0] &= bits[1] if node.op_type == "TernaryConv" else 1
    for name, plane in zip(node.input[1 : 1 + PLANES[node.op_type]], bits, strict=False):
        constants[name].CopyFrom(numpy_helper.from_array(np.packbits(plane, axis=1, bitorder="little"), name))
    attributes["weight_shape"].ints[:] = [o, kh, kw, c]
    if "pads" in attributes:
        top, left = rng.randrange(kh), rng.randrange(kw)
        same = [top, left, kh - 1 - top, kw - 1 - left]  # the output stays as large as it was: an Add after it still fits
        attributes["pads"].ints[:] = same if rng.random() < 0.7 else [rng.randrange(k) for k in (kh, kw, kh, kw)]


def pool(model: Model, rng: Rng) -> None:
    """A MaxPool of any window after some node."""
    at = rng.randrange(len(model.graph.node))
    source = model.graph.node[at].output[0]
    k = [rng.choice([1, 2, 3, 4, rng.choice(INTEGERS)]) for _ in "hw"]
    node = helper.make_node(
        "MaxPool", [source], ["pooled"], name="pooled", kernel_shape=k, strides=[rng.choice([1, 2, 3]) for _ in "hw"],
        pads=[rng.choice([0, k[i % 2] // 2, max(0, k[i % 2] - 1)]) for i in range(4)],
    )  # fmt: skip
    for other in model.graph.node[at + 1 :]:
        other.input[:] = ["pooled" if name == source else name for name in other.input]
    model.graph.node.insert(at + 1, node)


def top(model: Model, rng: Rng) -> None:
    nodes = [n for n in model.graph.node if n.op_type in ("Quantize", "FakeQuantize")]
    if nodes:
        a = next(iter(rng.choice(nodes).attribute))
        a.ints[:] = [rng.choice([1, 3, 15, 255, 0, -1, 7, 1 << 40]) for _ in a.ints]


def rewire(model: Model, rng: Rng) -> None:
    node = rng.choice(model.graph.node)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def rewire_value(model: Model, rng: Rng) -> None:
    """Read another node's output, one that comes before."""
    at = rng.randrange(1, len(model.graph.node)) if len(model.graph.node) > 1 else 0
    if at and model.graph.node[at].input:
        model.graph.node[at].input[0] = model.graph.node[rng.randrange(at)].output[0]


def node(model: Model, rng: Rng) -> None:
    """Remove, repeat, move or rename a node or one of its names."""
    nodes = model.graph.node
    at = rng.randrange(len(nodes))
    kind = rng.choice(["remove", "bypass", "repeat", "move", "operator", "domain", "name", "output", "more", "less", "onnx"])
    if kind == "remove" and len(nodes) > 1:
        del nodes[at]
    elif kind == "bypass" and len(nodes) > 1 and nodes[at].input:
        source, gone = nodes[at].input[0], nodes[at].output[0]
        del nodes[at]
        for other in nodes:
            other.input[:] = [source if name == gone else name for name in other.input]
    elif kind == "repeat":
        nodes.append(nodes[at])
        nodes[-1].output[0] = rng.choice([nodes[at].output[0], "again"])
    elif kind == "move":
        copy = onnx.NodeProto()
        copy.CopyFrom(nodes[at])
        del nodes[at]
        nodes.insert(rng.randrange(len(nodes) + 1), copy)
    elif kind == "operator":
        nodes[at].op_type = rng.choice([*(n.op_type for n in nodes), "Loop", "Relu", ""])
    elif kind == "domain":
        nodes[at].domain = rng.choice(["", "ai.onnx", DOMAIN, "com.microsoft"])
    elif kind == "name":
        nodes[at].name = rng.choice(["", "two\nlines", "\x00\x1b[2J", "long" * 10_000, nodes[0].name])
    elif kind == "output":
        nodes[at].output[0] = rng.choice(_names(model))
    elif kind == "more":
        rng.choice([nodes[at].input, nodes[at].output]).append(rng.choice(_names(model)))
    elif kind == "less" and nodes[at].input:
        del nodes[at].input[-1]
    else:
        nodes[at].overload = rng.choice(["", "other"])


def function(model: Model, rng: Rng) -> None:
    if not model.functions:
        return
    at = rng.randrange(len(model.functions))
    kind = rng.choice(["remove", "repeat", "rename", "body", "operand"])
    body = model.functions[at].node
    if kind == "remove":
        del model.functions[at]
    elif kind == "repeat":
        model.functions.append(model.functions[at])
    elif kind == "rename":
        model.functions[at].name = rng.choice([f.name for f in model.functions] + ["Other"])
    elif kind == "body" and len(body) > 1:
        del body[rng.randrange(len(body))]
    elif body and body[-1].input:
        body[-1].input[0] = body[0].output[0]


def header(model: Model, rng: Rng) -> None:
    kind = rng.choice(["ir", "opset", "domain", "meta", "drop", "version"])
    if kind == "ir":
        model.ir_version = _integer(rng, 8)
    elif kind == "opset" and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice([0, 1, 7, 13, 17, 18, 19, 99, -1])
    elif kind == "domain" and model.opset_import:
        del model.opset_import[rng.randrange(len(model.opset_import))]
    elif kind == "meta" and model.metadata_props:
        rng.choice(model.metadata_props).value = rng.choice(["", "2", "1.99", "x" * 1000, "two\nlines", "[1"])
    elif kind == "drop" and model.metadata_props:
        del model.metadata_props[rng.randrange(len(model.metadata_props))]
    else:
        for prop in model.metadata_props:
            if prop.key.endswith("format_version"):
                prop.value = rng.choice(["1", "1.0", "1.1", "1.9", "01.1", "1.", "٣", "-1"])


Change = Callable[[Model, Rng], None]
_VALID: list[Change] = [other_input_size, kernel, levels, strides, pads, pool, top, step, value, rewire_value]
"""Changes after which a file is often a packed file still: another network."""
CHANGES: list[Change] = [
    *_VALID, *_VALID, *_VALID,
    input_size, input_type, value_info, dims, resized, data_type, data_length, data_field, all_values, initializer, attribute,
    attribute, rewire, node, node, function, header,
]  # fmt: skip
