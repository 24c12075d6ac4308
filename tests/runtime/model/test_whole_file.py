"""No altered byte of a file of version 1.4 is read, and older files keep the protection that they have."""

import hashlib
import random
from pathlib import Path

import onnx
import pytest
from onnx import helper, numpy_helper

from bitplane.runtime import InferenceSession, ModelError
from bitplane.runtime.model.parse import parse

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DATA = (FIXTURES / "format-1.4" / "whole.onnx").read_bytes()
OLD = FIXTURES / "format-1.2" / "reactnet.onnx"
KEY, WEIGHTS, VERSION = "bitplane.file_sha256", "bitplane.weights_sha256", "bitplane.format_version"


def refusal(data) -> str:
    with pytest.raises(ModelError) as error:
        parse(bytes(data))
    message = str(error.value)
    assert message.startswith("<bytes>: ")
    assert message.isprintable()
    return message


def test_every_flipped_bit_is_refused() -> None:
    data = bytearray(DATA)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        refusal(data)
        data[bit // 8] ^= 1 << bit % 8
    parse(bytes(data))


def test_every_shorter_file_and_every_byte_too_much_is_refused() -> None:
    for end in range(len(DATA)):
        refusal(DATA[:end])
    for at in range(0, len(DATA) + 1, 7):
        refusal(DATA[:at] + b"\0" + DATA[at:])
    unknown_field = b"\xfa\x3f\x01x"  # field 1023, which protobuf keeps and ignores
    assert onnx.load_model_from_string(DATA + unknown_field).graph == onnx.load_model_from_string(DATA).graph
    refusal(DATA + unknown_field)


def test_two_thousand_bursts_of_random_bytes_are_refused() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        at, length = rng.randrange(len(DATA)), rng.choice([2, 3, 8, 64, 500])
        burst = rng.randbytes(len(DATA[at : at + length]))
        if DATA[at : at + length] != burst:
            refusal(DATA[:at] + burst + DATA[at + length :])


def node(model, op):
    return next(n for n in model.graph.node if n.op_type == op)


def attribute(model, op, name):
    return next(a for a in node(model, op).attribute if a.name == name)


def prop(model, key):
    return next(p for p in model.metadata_props if p.key == key)


def flip_top(m):
    attribute(m, "Quantize", "top").ints[0] = 3


def stride(m):
    attribute(m, "TernaryConv", "strides").ints[:] = [1, 1]


def pad(m):
    attribute(m, "TernaryConv", "pads").ints[:] = [1, 0, 1, 2]


def rewire(m):
    add = node(m, "Add")
    add.input[0] = add.input[1]


def rename_node(m):
    node(m, "Add").name = "sum"


def rename_value_in_function(m):
    m.functions[0].node[0].name = "first"


def opset(m):
    m.opset_import[1].version = 2


def input_size(m):
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 12


def value_info(m):
    m.graph.value_info.append(helper.make_tensor_value_info("x", 1, [1]))


def doc(m):
    m.graph.doc_string = "better"


def producer(m):
    m.producer_name = "other"


def weight(m):
    t = m.graph.initializer[1]
    array = numpy_helper.to_array(t).copy()
    array.reshape(-1)[0] += 1
    t.CopyFrom(numpy_helper.from_array(array, t.name))


def meta(key, value):
    def change(m):
        prop(m, key).value = value

    return change


def new_key(m):
    m.metadata_props.add(key="mine", value="1")


CHANGES = {
    "top": flip_top,
    "strides": stride,
    "pads": pad,
    "wiring": rewire,
    "node name": rename_node,
    "function": rename_value_in_function,
    "operator set": opset,
    "input size": input_size,
    "value info": value_info,
    "doc string": doc,
    "producer": producer,
    "constant": weight,
    "classes": meta("bitplane.classes", '["c", "b", "a"]'),
    "normalization": meta("bitplane.input", '{"size": [10, 10], "channels": 1, "mean": [0.0], "std": [255.0]}'),
    "accuracy": meta("bitplane.accuracy", '{"test_top1": 0.99}'),
    "new key": new_key,
    "relabeled 1.0": meta(VERSION, "1"),
    "relabeled 1.3": meta(VERSION, "1.3"),
    "relabeled 1.9": meta(VERSION, "1.9"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_edited_must_be_sealed_again(name, graphs) -> None:
    model = onnx.load_model_from_string(DATA)
    CHANGES[name](model)
    altered = model.SerializeToString()
    assert f"{KEY} is {prop(model, KEY).value} but the file hashes to {hashlib.sha256(zeroed(altered)).hexdigest()}" in refusal(
        altered
    )
    if name not in ("operator set", "input size"):  # which break other rules
        parse(graphs.sealed(model))


def zeroed(data: bytes) -> bytes:
    at = data.index(KEY.encode()) + 22
    return data[:at] + b"0" * 64 + data[at + 64 :]


def drop(model, key):
    kept = {p.key: p.value for p in model.metadata_props if p.key != key}
    helper.set_model_props(model, kept)


@pytest.mark.parametrize("key", [KEY, WEIGHTS, "bitplane.planes_sha256", VERSION])
def test_a_checksum_that_the_version_demands_must_be_there(key, graphs) -> None:
    model = onnx.load_model_from_string(DATA)
    drop(model, key)
    data = model.SerializeToString() if key == KEY else graphs.sealed(model)
    assert f"{key} is missing" in refusal(data)


def test_the_digest_must_stand_among_the_metadata(graphs) -> None:
    hidden = onnx.load_model_from_string(DATA)
    drop(hidden, KEY)
    entry = DATA[DATA.index(KEY.encode()) - 4 :][:90]
    model = hidden.SerializeToString()
    decoy = b"\xfa\x3f\x5a" + entry  # in an unknown field
    data = zeroed(model + decoy)
    at = data.index(KEY.encode()) + 22
    sealed = data[:at] + hashlib.sha256(data).hexdigest().encode() + data[at + 64 :]
    assert "not among the metadata" in refusal(sealed)
    assert "damaged, or there twice" in refusal(DATA + decoy)


def test_a_file_relabeled_to_an_older_version_keeps_the_checksum_of_its_constants() -> None:
    for version in ("1", "1.0", "1.2"):
        model = onnx.load(OLD)
        prop(model, VERSION).value = version
        InferenceSession(model.SerializeToString())
        bias = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
        bias.raw_data = bytes([bias.raw_data[0] ^ 1]) + bias.raw_data[1:]
        assert "the weights were altered" in refusal(model.SerializeToString())


@pytest.mark.parametrize("key", [WEIGHTS, "bitplane.planes_sha256"])
def test_a_checksum_whose_name_was_altered_is_missed(key) -> None:
    data = OLD.read_bytes()
    assert f"{key} is missing" in refusal(data.replace(key.encode(), key.encode()[:-1] + b"7"))


def test_metadata_of_one_key_twice_are_refused() -> None:
    model = onnx.load(OLD)
    model.metadata_props.add(key=VERSION, value="1.2")
    assert "two metadata have one key" in refusal(model.SerializeToString())
