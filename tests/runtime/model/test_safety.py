"""A model from a stranger is refused, in one line, before anything is opened or allocated for it, or runs as it says.

`pytest tests/runtime/model/test_safety.py --durations=0` shows how long each refusal takes.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitplane.format import names as fmt
from bitplane.format.functions import function
from bitplane.runtime import InferenceSession, ModelError

EXAMPLE = Path(__file__).resolve().parents[2] / "fixtures" / "format-1.1" / "ternary4.onnx"


@pytest.fixture
def small(graphs):
    b = graphs.Builder(0, 3, 8, 8)
    b.meta["bitplane.format_version"] = "1.1"
    x = b.op("Relu", b.pixel_conv(16, 3))
    y = b.conv(b.quantize(x, 2), "Ternary", 16, (3, 3), (1, 1), (1, 1, 1, 1))
    b.classifier(b.float_conv(y, 16, (1, 1), stored="Binary"))
    return b.model()


def tensor(model, ending):
    return next(t for t in model.graph.initializer if t.name.startswith(ending))


def external(location):
    def change(model, folder: Path):
        (folder / "secret").write_bytes(bytes(4096))
        (folder / "link").symlink_to(folder / "secret")
        os.link(folder / "secret", folder / "hard")
        t = tensor(model, "plane")
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value=location.format(folder=folder))

    return change


def dims(*sizes):
    def change(model, _):
        del tensor(model, "plane").dims[:]
        tensor(model, "plane").dims.extend(sizes)

    return change


def attribute(op, name, values):
    def change(model, _):
        node = next(n for n in model.graph.node if n.op_type == op)
        found = next(a for a in node.attribute if a.name == name)
        found.CopyFrom(helper.make_attribute(name, values))

    return change


def first_node(node, **constants):
    def change(model, _):
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        model.graph.node.insert(0, node)

    return change


def nested(model, _):
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["x"])], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["x"], then_branch=graph)], "g", [], [])
    model.graph.node.insert(0, graph.node[0])


def redefine(op, body):
    def change(model, _):
        found = next(f for f in model.functions if f.name == op)
        own = helper.make_function(fmt.DOMAIN, op, list(found.input), ["y"], body, found.opset_import, list(found.attribute))
        found.CopyFrom(own)

    return change


def one_constant_less(model, _):
    """The body of Quantize with another zero point: same name, same shape, another meaning."""
    body = next(f for f in model.functions if f.name == "Quantize")
    node = next(n for n in body.node if n.output[0] == "z")
    node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.uint8(1)))


def billion_laughs(model, _):
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("bitplane", 1)]
    for i in range(30):
        nodes = [helper.make_node(f"F{i + 1}", ["x"], [f"a{j}"], domain="bitplane") for j in range(2)]
        model.functions.append(helper.make_function("bitplane", f"F{i}", ["x"], ["a1"], nodes, opset))
    model.graph.node.insert(0, helper.make_node("F0", ["input"], ["laugh"], domain="bitplane"))


def duplicate_initializer(model, _):
    model.graph.initializer.append(model.graph.initializer[0])


def sparse(model, _):
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    indices = numpy_helper.from_array(np.array([1 << 40]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 60]))


def many_nodes(model, _):
    model.graph.node.extend(helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(70_000))


def short_data(model, _):
    tensor(model, "plane").raw_data = tensor(model, "plane").raw_data[:-1]


def strings(model, _):
    t = tensor(model, "plane")
    t.ClearField("raw_data")
    t.data_type = TensorProto.STRING
    t.string_data.append(b"x" * 10)


def huge_input(model, _):
    for d in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        d.dim_value = 1 << 40


def cycle(model, _):
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.input[0] = next(n for n in model.graph.node if n.op_type == "Flatten").input[0]


def opset(*domains):
    def change(model, _):
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*d) for d in domains)

    return change


def one_name(model, _):
    model.graph.node[2].name = model.graph.node[1].name


def overload(model, _):
    next(n for n in model.graph.node if n.op_type == "Quantize").overload = "other"


def attribute_twice(model, _):
    node = next(n for n in model.graph.node if n.op_type == "TernaryConv")
    node.attribute.append(helper.make_attribute("strides", [2, 2]))


def attribute_of_a_function(model, _):
    next(n for n in model.graph.node if n.op_type == "TernaryConv").attribute[0].ref_attr_name = "strides"


def name_of(text):
    def change(model, _):
        next(n for n in model.graph.node if n.op_type == "Relu").input[0] = text

    return change


def external_constant_of_a_function(model, folder):
    (folder / "z").write_bytes(b"\0")
    node = next(n for f in model.functions if f.name == "Quantize" for n in f.node if n.output[0] == "z")
    t = node.attribute[0].t
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value=str(folder / "z"))


def huge_unit(model, _):
    t = tensor(model, "unit")
    t.CopyFrom(numpy_helper.from_array(np.full((16, 1, 1, 1), 3e38, np.float32), t.name))


def pooled(**attributes):
    def change(model, _):
        x = next(n for n in model.graph.node if n.op_type == "Relu")
        node = helper.make_node("MaxPool", [x.output[0]], ["pooled"], name="pooled", **attributes)
        model.graph.node.insert(list(model.graph.node).index(x) + 1, node)

    return change


def slow_pool(model, _):
    for d in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        d.dim_value = 4000
    pooled(kernel_shape=[2000] * 2, strides=[1, 1], pads=[0] * 4)(model, None)


def shortcut_to(channels):
    def change(model, _):
        x = next(n for n in model.graph.node if n.op_type == "Relu")
        model.functions.append(function("PadShortcut"))
        pads = [0, 0, 0, 0, 0, channels, 0, 0]
        node = helper.make_node("PadShortcut", [x.output[0]], ["wide"], name="wide", domain="bitplane", steps=[1, 1], pads=pads)
        model.graph.node.insert(list(model.graph.node).index(x) + 1, node)

    return change


def huge_version(model, _):
    next(p for p in model.metadata_props if p.key == fmt.META_FORMAT_VERSION).value = "9" * 100_000


ATTACKS = {
    "external data above the folder": (external("../../../etc/passwd"), "lies in another file"),
    "external data at an absolute path": (external("/etc/passwd"), "lies in another file"),
    "external data through a symlink": (external("link"), "lies in another file"),
    "external data through a hardlink": (external("hard"), "lies in another file"),
    "a tensor of 2^62 elements": (dims(1 << 62), "declares shape"),
    "sizes whose product is 2^64": (dims(1 << 32, 1 << 32), "declares shape"),
    "a negative size": (dims(-1, 18), "declares shape"),
    "a size of zero": (dims(0, 18), "expected"),
    "planes smaller than their weight_shape": (attribute("TernaryConv", "weight_shape", [1 << 20, 3, 3, 16]), "has shape"),
    "a weight_shape beyond any bound": (attribute("TernaryConv", "weight_shape", [1 << 40, 3, 3, 16]), "weight_shape is"),
    "a float weight from nothing": (
        attribute("BinaryWeight", "weight_shape", [1 << 14, 1 << 7, 1 << 7, 16]),
        "weight_shape is",
    ),
    "strides of zero": (attribute("TernaryConv", "strides", [0, 0]), "strides must be positive"),
    "negative pads": (attribute("TernaryConv", "pads", [-9, 0, 0, 0]), "pads in [0, kernel)"),
    "more groups than channels": (attribute("Conv", "group", 1 << 30), "group is 1073741824"),
    "an image of 2^80 pixels": (huge_input, "would have shape"),
    "nested graphs": (nested, "operator 'If' is not part"),
    "a constant-folding bomb, ConstantOfShape": (
        first_node(helper.make_node("ConstantOfShape", ["s"], ["bomb"]), s=np.array([1 << 40])),
        "operator 'ConstantOfShape' is not part",
    ),
    "a constant-folding bomb, Tile": (
        first_node(helper.make_node("Tile", ["t", "s"], ["bomb"]), t=np.ones(9, np.float32), s=np.array([1 << 40])),
        "operator 'Tile' is not part",
    ),
    "an operator that says something else": (
        redefine("TernaryConv", [helper.make_node("Identity", ["x"], ["y"])]),
        "function of operator 'bitplane.TernaryConv' does not say",
    ),
    "a function that calls itself": (
        redefine("Quantize", [helper.make_node("Quantize", ["x", "step"], ["y"], domain="bitplane")]),
        "function of operator 'bitplane.Quantize' does not say",
    ),
    "a function with one other constant": (one_constant_less, "function of operator 'bitplane.Quantize' does not say"),
    "functions that double thirty times": (billion_laughs, "operator 'bitplane.F0' is not part"),
    "an operator without its function": (lambda m, _: m.functions.pop(0), "carries no function"),
    "a function of another domain": (
        lambda m, _: m.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [], [])),
        "is not one of the format's",
    ),
    "two initializers of one name": (duplicate_initializer, "have one name"),
    "a sparse initializer": (sparse, "sparse initializers"),
    "seventy thousand nodes": (many_nodes, "at most 65536"),
    "data shorter than their shape": (short_data, "holds"),
    "strings for weights": (strings, "has type STRING"),
    "a cycle": (cycle, "is not made by an earlier node"),
    "a version of 100,000 digits": (huge_version, "is unknown"),
    "another version of ONNX's operators": (opset(("", 13), ("bitplane", 1)), "has ONNX operator sets [13], expected [18]"),
    "two versions of ONNX's operators": (opset(("", 18), ("ai.onnx", 13), ("bitplane", 1)), "sets [18, 13], expected [18]"),
    "two nodes of one name": (one_name, "two nodes have one name"),
    "an overload": (overload, "asks for overload 'other'"),
    "an attribute that comes twice": (attribute_twice, "an attribute comes twice"),
    "an attribute of a function's": (attribute_of_a_function, "an attribute comes twice, or refers to one of a function"),
    "a name of several lines": (name_of("two\nlines"), "input 'two\\nlines' is not made"),
    "a name that moves the cursor": (name_of("\x1b[2J"), "input '\\x1b[2J' is not made"),
    "a name of a million letters": (name_of("x" * 1_000_000), "xxx ... xxx"),
    "a constant of a function in a file": (external_constant_of_a_function, "operator 'bitplane.Quantize' does not say"),
    "a weight that overflows float32": (huge_unit, "the weights were altered|must be finite"),
    "strides that overflow addresses": (attribute("TernaryConv", "strides", [1 << 62, 1]), "strides must be positive, at most"),
    "a pool of hours": (slow_pool, "asks for more than 4398046511104 operations"),
    "a pool of many pixels": (pooled(kernel_shape=[1 << 40] * 2, strides=[1, 1], pads=[(1 << 40) - 1] * 4), "would have shape"),
    "channels without weights": (shortcut_to(1 << 21), "at most 1048576 are read"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_file_is_refused(small, tmp_path, name: str) -> None:
    change, match = ATTACKS[name]
    change(small, tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(small.SerializeToString())
    with pytest.raises(ModelError) as caught:
        InferenceSession(path)
    message = str(caught.value)
    assert any(part in message for part in match.split("|"))
    assert "\n" not in message
    assert len(message) < 600


def test_five_thousand_shortcuts_in_a_row_are_no_recursion(graphs) -> None:
    b = graphs.Builder(0, 3, 2, 2)
    x = b.pixel_conv(16, 1)
    for _ in range(5000):
        x = b.pad_shortcut(x, 0, 0, 1)
    b.classifier(x)
    session = InferenceSession(b.model().SerializeToString())
    assert session.run(None, {"input": b.images(1)})[0].shape == (1, 10)


def test_graphs_nested_five_thousand_deep_are_refused() -> None:
    def field(number: int, data: bytes) -> bytes:
        size, head = len(data), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes([*head, size]) + data

    data = b""
    for _ in range(5000):
        data = field(1, field(5, field(6, data)))  # graph.node, node.attribute, attribute.g
    with pytest.raises(ModelError, match=r"not an ONNX model, or truncated"):
        InferenceSession(field(7, data))


def test_the_bombs_are_small(small, tmp_path) -> None:
    size = len(small.SerializeToString())
    for name in ("a constant-folding bomb, ConstantOfShape", "a constant-folding bomb, Tile"):
        model = onnx.ModelProto()
        model.CopyFrom(small)
        ATTACKS[name][0](model, tmp_path)
        assert len(model.SerializeToString()) - size < 1024


def test_a_thousand_flipped_bits_of_weights_are_a_thousand_refusals() -> None:
    model = onnx.load(EXAMPLE)
    tensors = list(model.graph.initializer)
    sizes = np.array([len(t.raw_data) for t in tensors])
    rng = np.random.default_rng(0)
    for _ in range(1000):
        t = tensors[rng.choice(len(tensors), p=sizes / sizes.sum())]
        data, bit = bytearray(t.raw_data), int(rng.integers(8 * len(t.raw_data)))
        data[bit // 8] ^= 1 << bit % 8
        before, t.raw_data = t.raw_data, bytes(data)
        with pytest.raises(ModelError):
            InferenceSession(model.SerializeToString())
        t.raw_data = before
    InferenceSession(model.SerializeToString())


def test_three_hundred_altered_bytes_never_crash_and_never_mean_something_else(small) -> None:
    rng = np.random.default_rng(1)
    data = small.SerializeToString()
    images = rng.integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    ran = 0
    for _ in range(300):
        altered = bytearray(data)
        altered[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        try:
            logits = InferenceSession(bytes(altered)).run(None, {"input": images})[0]
        except ModelError:
            continue
        ran += 1
        try:
            theirs = onnxruntime.InferenceSession(bytes(altered), options).run(None, {"input": images})[0]
        except Exception:  # onnxruntime may refuse names or metadata that mean nothing to us
            continue
        np.testing.assert_allclose(logits, theirs, atol=1e-4, rtol=1e-5)
    assert ran < 150


@pytest.mark.parametrize(
    ("version", "reads"),
    [
        ("1", True),
        ("1.0", True),
        ("1.1", True),
        ("1.2", True),
        ("1.7", True),
        ("2", False),
        ("2.0", False),
        ("0", False),
        ("1.x", False),
        ("", False),
    ],
)
def test_versions(graphs, version: str, reads: bool) -> None:
    b = graphs.Builder(0, 3, 8, 8)
    b.classifier(b.conv(b.quantize(b.op("Relu", b.pixel_conv(16, 3)), 2), "Ternary", 16, (1, 1)))
    b.meta["bitplane.format_version"] = version
    data = b.data()
    if reads:
        InferenceSession(data)
    else:
        with pytest.raises(ModelError, match=r"format version .* is unknown, this runtime reads 1.0 to 1.4; upgrade bitplane"):
            InferenceSession(data)


def test_an_operator_of_a_newer_minor_version_asks_for_an_upgrade(graphs) -> None:
    b = graphs.Builder(0, 3, 8, 8)
    b.meta["bitplane.format_version"] = "1.9"
    x = b.pixel_conv(16, 3)
    b.classifier(x)
    model = b.model()
    model.graph.node.insert(1, helper.make_node("Nonary", [x], ["n"], name="n", domain="bitplane"))
    with pytest.raises(
        ModelError, match=r"operator 'bitplane.Nonary' is not part of format version 1.4; the file has format 1.9; upgrade"
    ):
        InferenceSession(graphs.sealed(model))


def test_both_bodies_of_an_operator_are_ours(small) -> None:
    for i, f in enumerate(small.functions):
        if f.name in ("PixelConv", "TernaryConv", "Quantize"):
            small.functions[i].CopyFrom(function(f.name, 0))
    InferenceSession(small.SerializeToString())


def test_names_inside_a_function_do_not_matter(small) -> None:
    for f in small.functions:
        for n in f.node:
            for names in (n.input, n.output):
                names[:] = [f"{i}_renamed" if i and i not in f.input and i not in f.output else i for i in names]
    InferenceSession(small.SerializeToString())
