"""Each rule of the format that a file can break gives a ModelError of one line that names the place."""

import numpy as np
import onnx
import pytest
from onnx import helper as h
from onnx import numpy_helper as nh

from bitplane.runtime import InferenceSession, ModelError


def initializer(model, node, index):
    name = next(n for n in model.graph.node if n.name == node or n.op_type == node).input[index]
    return next(t for t in model.graph.initializer if t.name == name)


def replace(tensor, value):
    tensor.CopyFrom(nh.from_array(np.asarray(value), tensor.name))


def node_of(model, op):
    return next(n for n in model.graph.node if n.op_type == op)


def set_meta(model, **values):
    props = {p.key: p.value for p in model.metadata_props}
    h.set_model_props(model, {**props, **{f"bitplane.{k}": v for k, v in values.items()}})


def set_attribute(model, op, name, value):
    node = node_of(model, op)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, *([] if value is None else [h.make_attribute(name, value)])])


def edit(op, index, change):
    def apply(model):
        tensor = initializer(model, op, index)
        replace(tensor, change(nh.to_array(tensor).copy()))

    return apply


def with_value(at, value):
    def change(array):
        array[at] = value
        return array

    return change


def drop_meta(model):
    del model.metadata_props[:]


def rename_op(op, new):
    def apply(model):
        node_of(model, op).op_type = new

    return apply


def rename_input(op, index, new):
    def apply(model):
        node_of(model, op).input[index] = new

    return apply


def attribute(op, name, value):
    return lambda model: set_attribute(model, op, name, value)


def shrink_raw(model):
    tensor = initializer(model, "TernaryConv", 1)
    tensor.raw_data = tensor.raw_data[:-1]


def external(model):
    initializer(model, "TernaryConv", 1).data_location = onnx.TensorProto.EXTERNAL


def huge_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def symbolic_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


def float_input(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def no_domain(model):
    del model.opset_import[1:]


def duplicate_output(model):
    node_of(model, "TernaryConv").output[0] = node_of(model, "PixelConv").output[0]


def other_output(model):
    model.graph.output[0].name = node_of(model, "PixelConv").output[0]


def other_input(model):
    model.graph.input[0].name = "image"


def extra_input(model):
    node_of(model, "Relu").input.append("input")


def extra_output(model):
    node_of(model, "Relu").output.append("more")


CASES = {
    "no metadata": (drop_meta, "bitplane.format_version is missing"),
    "unknown version": (lambda m: set_meta(m, format_version="2"), "format version '2' is unknown"),
    "wrong hash": (lambda m: set_meta(m, planes_sha256="0" * 64), "the weights were altered"),
    "altered plane": (edit("TernaryConv", 2, lambda p: p | 1), "the weights were altered"),
    "no bitplane domain": (no_domain, "domain 'bitplane' is not used: this is a plain ONNX model"),
    "unknown operator": (rename_op("TernaryConv", "FiveConv"), "operator 'bitplane.FiveConv' is not part of"),
    "unknown ONNX operator": (rename_op("Relu", "Elu"), "operator 'Elu' is not part of"),
    "plane of another shape": (edit("TernaryConv", 1, lambda p: p[:, :-1]), "expected [16, 18]"),
    "plane of another type": (edit("TernaryConv", 1, lambda p: p.astype(np.int8)), "has type INT8, expected uint8"),
    "plane cut short": (shrink_raw, "holds 287 values, expected 288"),
    "plane in another file": (external, "lies in another file"),
    "sign outside mask": (edit("TernaryConv", 2, lambda p: p * 0), "is set where mask"),
    "padding bits": (edit("BinaryConv", 1, with_value((0, -1), 0x80)), "has padding bits set after its 9 weights"),
    "negative scale": (edit("TernaryConv", 3, with_value(2, -1.0)), "must be positive and finite"),
    "zero scale": (edit("PixelConv", 3, with_value(0, 0.0)), "must be positive and finite"),
    "infinite scale": (edit("TernaryConv", 3, with_value(0, np.inf)), "must be positive and finite"),
    "NaN bias": (edit("TernaryConv", 4, with_value(0, np.nan)), "must be finite"),
    "large pixel weight": (edit("PixelConv", 1, with_value((0, 0, 0, 0), 65)), "expected [-64, 64]"),
    "pixel weight of other channels": (edit("PixelConv", 1, lambda w: w[:, :1]), "expected [O, 3, kh, kw]"),
    "weight_shape": (attribute("TernaryConv", "weight_shape", [16, 3, 3, 15]), "is [16, 3, 3, 15], expected [O, kh, kw, 16]"),
    "huge weight_shape": (attribute("TernaryConv", "weight_shape", [1 << 40, 3, 3, 16]), "weight_shape is"),
    "levels": (attribute("FourLevelConv", "levels", [3, 1]), "levels are [3, 1], expected two ascending integers of 1 to 64"),
    "equal levels": (attribute("FourLevelConv", "levels", [3, 3]), "expected two ascending integers"),
    "level 0": (attribute("FourLevelConv", "levels", [0, 3]), "expected two ascending integers"),
    "large level": (attribute("FourLevelConv", "levels", [1, 65]), "levels are [1, 65], expected two ascending integers"),
    "three levels": (attribute("FourLevelConv", "levels", [1, 2, 3]), "attribute 'levels' is [1, 2, 3], expected 2 integers"),
    "no levels": (attribute("FourLevelConv", "levels", None), "attribute 'levels' is None, expected 2 integers"),
    "levels of ternary weights": (attribute("TernaryConv", "levels", [1, 3]), "attribute 'levels' = [1, 3] is not supported"),
    "missing strides": (attribute("TernaryConv", "strides", None), "attribute 'strides' is None, expected 2 integers"),
    "zero stride": (attribute("TernaryConv", "strides", [0, 1]), "strides must be positive"),
    "negative pad": (attribute("TernaryConv", "pads", [-1, 1, 1, 1]), "pads in [0, kernel)"),
    "unknown attribute": (attribute("TernaryConv", "groups", 2), "attribute 'groups' = 2 is not supported"),
    "kernel larger than input": (attribute("MaxPool", "kernel_shape", [30, 30]), "is larger than its padded input"),
    "dilated pool": (attribute("MaxPool", "dilations", [2, 2]), "attribute 'dilations'"),
    "top": (attribute("Quantize", "top", [5]), "top is 5, expected one of [1, 3, 15, 255]"),
    "step": (edit("Quantize", 1, lambda s: -s), "expected a positive finite number"),
    "Clip without a limit": (edit("Clip", 2, lambda v: v + np.float32(np.inf)), "two ascending finite numbers"),
    "Clip of descending limits": (edit("Clip", 2, lambda v: v - np.float32(100)), "expected two ascending finite numbers"),
    "Clip a channel": (edit("Clip", 1, lambda v: np.zeros((16, 1, 1), np.float32)), "expected []"),
    "transB": (attribute("Gemm", "transB", 0), "'transB' is not 1"),
    "alpha": (attribute("Gemm", "alpha", 2.0), "attribute 'alpha' = 2.0 is not supported"),
    "Gemm of other channels": (edit("Gemm", 1, lambda w: w[:, 1:]), "expected [classes, 16]"),
    "Gemm bias": (edit("Gemm", 2, lambda b: b[1:]), "expected [10]"),
    "shortcut pads": (attribute("PadShortcut", "pads", [0, 0, 1, 0, 0, 16, 0, 0]), "pads only on channels"),
    "features where codes belong": (
        lambda m: rename_input("TernaryConv", 0, node_of(m, "PixelConv").output[0])(m),
        "expected codes",
    ),
    "pixels where features belong": (rename_input("Relu", 0, "input"), "holds pixels, expected features"),
    "missing value": (rename_input("Relu", 0, "nowhere"), "'nowhere' is not made by an earlier node"),
    "missing initializer": (rename_input("TernaryConv", 1, "nowhere"), "'nowhere' is not an initializer"),
    "too many inputs": (extra_input, "has 2 inputs, expected 1"),
    "too many outputs": (extra_output, "has 2 outputs, expected 1"),
    "name used twice": (duplicate_output, "is empty or used twice"),
    "huge input": (huge_input, "expected 1 to 268435456 elements"),
    "unknown input size": (symbolic_input, "with C, H, W known"),
    "float input": (float_input, "holds floats, expected pixels"),
    "other input name": (other_input, "expected ['input']"),
    "other output name": (other_output, "expected ['logits']"),
    "Gemm of unflattened": (
        lambda m: rename_input("Gemm", 0, node_of(m, "GlobalAveragePool").output[0])(m),
        "not the output of Flatten",
    ),
}


@pytest.fixture
def model(graphs):
    b = graphs.Builder(1, 3, 12, 12)
    x = b.max_pool(b.op("Relu", b.pixel_conv(16, 3)), 2, 2, 0)
    y = b.conv(b.quantize(x, 2), "Ternary", 16, (3, 3), (1, 1), (1, 1, 1, 1))
    z = b.clip(b.op("Add", b.pad_shortcut(x, 0, 0, 1), y))
    one = b.conv(b.quantize(z, 1), "Ternary", 1, (1, 1))
    w = b.conv(b.quantize(one, 1), "Binary", 16, (3, 3), (1, 1), (1, 1, 1, 1))
    v = b.conv(b.quantize(one, 1), "FourLevel", 16, (1, 1))
    b.classifier(b.op("Add", b.op("Add", z, w), v))
    return b.model()


def test_the_model_the_cases_start_from_is_accepted(model):
    onnx.checker.check_model(model, full_check=True)
    InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_broken_file_is_refused(model, name):
    change, words = CASES[name]
    change(model)
    with pytest.raises(ModelError) as error:
        InferenceSession(model.SerializeToString())
    message = str(error.value)
    assert words in message
    assert message.startswith("<bytes>: ")
    assert "\n" not in message


def test_sums_of_large_levels_that_overflow_32_bits_are_refused(graphs):
    def data(levels):
        b = graphs.Builder(1, 1, 1, 1)
        b.levels = levels
        b.classifier(b.conv(b.quantize(b.pixel_conv(43_900, 1), 8), "FourLevel", 1, (1, 1)))
        return b.model().SerializeToString()

    InferenceSession(data((1, 10)))
    with pytest.raises(ModelError, match="sums over 43900 weights overflow 32 bits"):
        InferenceSession(data((1, 64)))


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read"):
        InferenceSession(tmp_path / "none.onnx")


@pytest.mark.parametrize(("path", "words"), [("a\0b", "zero|null"), ("two\nlines", "No such file"), (".", "directory")])
def test_a_path_that_is_no_file_is_refused_in_one_line(path, words):
    with pytest.raises(ModelError, match=rf"cannot be read \(.*({words})") as error:
        InferenceSession(path)
    assert str(error.value).isprintable()


def test_other_bytes_are_refused():
    for data in (b"", b"hello", bytes(range(256))):
        with pytest.raises(ModelError):
            InferenceSession(data)


def test_truncated_file_is_refused_wherever_it_ends(model):
    data = model.SerializeToString()
    for end in range(0, len(data), 97):
        with pytest.raises(ModelError):
            InferenceSession(data[:end])
