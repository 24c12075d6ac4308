"""The reader of metadata: what FORMAT.md describes is read, anything else is one line, and nothing of a named size is made."""

import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitplane.format import names as fmt
from bitplane.format.errors import MetadataError
from bitplane.format.metadata import InputInfo, Metadata, check_fit, read_metadata

PIXELS = {"size": [32, 48], "channels": 3, "mean": [1.0, 2, 3.5], "std": [4.0], "zero_point": 9}
WHOLE = {
    "bitplane.format_version": "1.2",
    "bitplane.model": "resnet20",
    "bitplane.method": "pc",
    "bitplane.level_set": "ternary",
    "bitplane.activation_bits": "2",
    "bitplane.dataset": "cifar10",
    "bitplane.classes": '["cat", "dög"]',
    "bitplane.input": json.dumps(PIXELS),
    "bitplane.accuracy": '{"test_top1": 0.91, "epochs": 40}',
    "somebody.else": "{{{",
}

KEYS = [key for key in WHOLE if key.startswith("bitplane.") and key != "bitplane.format_version"]


def test_all_that_is_known_is_read():
    assert read_metadata(WHOLE, "m.onnx") == Metadata(
        model="resnet20",
        method="pc",
        level_set="ternary",
        activation_bits=2,
        dataset="cifar10",
        classes=("cat", "dög"),
        input=InputInfo((32, 48), 3, (1.0, 2.0, 3.5), (4.0,), "bilinear", "stretch"),
        accuracy=0.91,
    )


def test_what_is_not_said_is_empty():
    assert read_metadata({}, "m.onnx") == Metadata()
    assert read_metadata({"bitplane.activation_bits": "mixed", "bitplane.accuracy": "{}"}, "m.onnx") == Metadata()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", "[" * 100_000, "nested deeper than 4 levels"),
        ("classes", '["a", 1]', "no list of names"),
        ("classes", '"' + '\\"' * 200_000, "not readable JSON"),
        ("classes", "{}", "no list of names"),
        ("classes", "[]", "must have 1 to"),
        ("classes", '["a"', "not readable JSON"),
        ("classes", json.dumps(["a" * 1001]), "at most 1000 characters"),
        ("classes", '["' + "a" * (1 << 24) + '"]', "characters, at most"),
        ("input", '{"size": [100000, 100000], "channels": 3}', "has `size` 100000, expected an integer of 1 to 16384"),
        ("input", '{"size": [16384, 16384], "channels": 3}', "has an image of 805306368 values"),
        ("input", '{"size": [0, 8], "channels": 3}', "has `size` 0"),
        ("input", '{"size": [8, true], "channels": 3}', "has `size` true"),
        ("input", '{"size": [8.0, 8], "channels": 3}', "has `size` 8.0"),
        ("input", '{"size": [8], "channels": 3}', "has no `size` of height and width"),
        ("input", '{"size": [8, 8]}', "has `channels` null"),
        ("input", '{"size": [8, 8], "channels": 3, "mean": [1, 2], "std": [1]}', "has `mean` [1, 2], expected one number"),
        ("input", '{"size": [8, 8], "channels": 3, "mean": [1], "std": [0]}', "`std` must be positive"),
        ("input", '{"size": [8, 8], "channels": 3, "mean": [1]}', "both `mean` and `std` or neither"),
        ("input", '{"size": [8, 8], "channels": 3, "mean": [1e999], "std": [1]}', "expected one number"),
        ("input", '{"size": [8, 8], "channels": 3, "mean": [NaN], "std": [1]}', "NaN is no number"),
        ("input", '{"size": [8, 8], "channels": 3, "resize": "area"}', "this bitplane knows bilinear, bicubic"),
        ("input", '{"size": [8, 8], "channels": 3, "fit": ["crop"]}', "this bitplane knows stretch, crop"),
        ("input", "[]", "is no JSON object"),
        ("input", "9" * 5000, "not readable JSON"),
        ("accuracy", '{"test_top1": null}', "has `test_top1` null, expected a share of 0 to 1"),
        ("accuracy", '{"test_top1": 91.2}', "expected a share"),
        ("accuracy", '{"test_top1": true}', "expected a share"),
        ("accuracy", '{"test_top1": Infinity}', "Infinity is no number"),
        ("activation_bits", "64", "expected 1 to 32 or 'mixed'"),
        ("activation_bits", "٢", "expected 1 to 32 or 'mixed'"),
        ("model", "x" * 1001, "has 1001 characters"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_file_and_the_key(key, value, words):
    tracemalloc.start()
    try:
        with pytest.raises(MetadataError) as caught:
            read_metadata(WHOLE | {f"bitplane.{key}": value}, "m\n.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"m\\n.onnx: metadata bitplane.{key} ")
    assert message.isprintable()
    assert len(message) < 1000
    assert peak < 4 * len(value) + (1 << 20)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(PIXELS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*PIXELS, "resize", "fit", "test_top1", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), st.text() | json_values.map(json.dumps), max_size=4))
@example({"bitplane.input": '{"size": [1, 1], "channels": 1}'})
def test_any_metadata_are_read_within_bounds_or_refused(properties):
    problem = ""
    try:
        found = read_metadata(properties, "m.onnx")
    except MetadataError as e:
        problem, found = str(e), Metadata()
    assert problem.isprintable()
    assert not problem or any(key in problem for key in properties)
    assert found.accuracy is None or 0 <= found.accuracy <= 1
    assert found.activation_bits is None or 1 <= found.activation_bits <= 32
    assert all(isinstance(name, str) for name in found.classes)
    if found.input is not None:
        given_input = json.loads(properties["bitplane.input"])
        assert [*found.input.size, found.input.channels] == [*given_input["size"], given_input["channels"]]
        assert min(*found.input.size, found.input.channels) >= 1


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20), st.floats(0, 1), st.integers(1, 99), st.integers(1, 4))
def test_what_an_exporter_writes_comes_back(classes, top1, side, channels):
    properties = {
        fmt.META_CLASSES: json.dumps(classes),
        fmt.META_ACCURACY: json.dumps({"test_top1": top1}),
        fmt.META_INPUT: json.dumps({"size": [side, 7], "channels": channels, "mean": [1.5] * channels, "std": [2] * channels}),
    }
    found = read_metadata(properties, "m.onnx")
    assert (found.classes, found.accuracy) == (tuple(classes), top1)
    assert found.input == InputInfo((side, 7), channels, (1.5,) * channels, (2.0,) * channels)
    check_fit(found, "m.onnx", (channels, side, 7), len(classes))
    with pytest.raises(MetadataError, match=r"^m.onnx: metadata bitplane.input says "):
        check_fit(found, "m.onnx", (channels, side, 8), len(classes))
    with pytest.raises(MetadataError, match=r"^m.onnx: metadata bitplane.classes has "):
        check_fit(found, "m.onnx", (channels, side, 7), len(classes) + 1)
