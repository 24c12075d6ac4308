"""The session looks like onnxruntime's and refuses wrong inputs in one line."""

import subprocess
import sys

import numpy as np
import pytest

from bitplane.runtime import BitplaneError, InferenceSession, InputError, ModelError, SessionOptions


@pytest.fixture(scope="module")
def builder(graphs):
    return graphs.resnet(1, "Binary", 1, 8, (16,), 1)


@pytest.fixture(scope="module")
def session(builder):
    return InferenceSession(builder.model().SerializeToString(), providers=["CPUExecutionProvider"])


def test_input_output_and_metadata_are_described(session):
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("input", "tensor(uint8)", ["batch", 3, 8, 8])
    assert (made.name, made.type, made.shape) == ("logits", "tensor(float)", ["batch", 10])
    assert session.get_modelmeta().custom_metadata_map["bitplane.format_version"] == "1"
    assert session.get_providers()


def test_kernels_are_named(session):
    names = session.kernels()
    assert any(k.startswith("dot u8s8") for k in names.values())
    assert any(k.startswith("popcount binary x1b, 16-bit lanes") for k in names.values())


def test_path_options_and_outputs_are_accepted(builder, session, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(builder.model().SerializeToString())
    images = builder.images(3)
    expected = session.run(["logits"], {"input": images})[0]
    for source in (path, str(path)):
        again = InferenceSession(source, SessionOptions(intra_op_num_threads=0)).run(None, {"input": images[:, :, ::1]})
        np.testing.assert_array_equal(again[0], expected)


VIEWS = {
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "Fortran order": np.asfortranarray,
    "every second image": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "a part of a larger image": lambda x: np.pad(x, ((1, 1), (2, 2), (3, 3), (4, 4)))[1:-1, 2:-2, 3:-3, 4:-4],
    "unaligned": lambda x: np.frombuffer(b"\1" + x.tobytes(), np.uint8)[1:].reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
    "a subclass": np.ma.array,
    "a buffer": memoryview,
}


@pytest.mark.parametrize("view", VIEWS)
def test_images_of_any_layout_give_the_same_bits(builder, session, view):
    images = builder.images(3)
    kept = images.copy()
    found = session.run(None, {"input": VIEWS[view](images)})[0]
    np.testing.assert_array_equal(found, session.run(None, {"input": kept})[0])
    np.testing.assert_array_equal(images, kept)


def test_one_image_seen_many_times_gives_the_same_logits(builder, session):
    image = builder.images(1)
    found = session.run(None, {"input": np.broadcast_to(image, (5, 3, 8, 8))})[0]
    np.testing.assert_array_equal(found, np.repeat(session.run(None, {"input": image})[0], 5, axis=0))


def test_a_view_of_more_images_than_memory_holds_is_refused_before_it_is_copied(builder, session):
    images = np.broadcast_to(builder.images(1), (1 << 40, 3, 8, 8))
    with pytest.raises(InputError, match=r"needs more memory than there is; give smaller batches$"):
        session.run(None, {"input": images})


def test_a_float_view_of_more_images_than_memory_holds_is_refused_before_it_is_read(graphs):
    b = graphs.Builder(7, 3, 6, 6)
    b.floats = True
    b.classifier(b.float_conv("input", 16, (1, 1)))
    images = np.broadcast_to(b.images(1), (1 << 40, 3, 6, 6))
    with pytest.raises(InputError, match="needs more memory than there is"):
        InferenceSession(b.model().SerializeToString()).run(None, {"input": images})


def test_no_image_gives_no_logits(builder, session):
    assert session.run(None, {"input": builder.images(1)[:0]})[0].shape == (0, 10)


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"x": np.zeros((1, 3, 8, 8), np.uint8)}, "['x'] were given, the model has ['input']"),
        ({}, "[] were given"),
        ({"input": np.zeros((3, 8, 8), np.uint8)}, "shape [3, 8, 8], expected [batch, 3, 8, 8]"),
        ({"input": np.zeros((1, 3, 8, 9), np.uint8)}, "shape [1, 3, 8, 9]"),
        ({"input": np.zeros((1, 3, 8, 8), np.float32)}, "float32, expected uint8"),
        ({"input": np.full((1, 3, 8, 8), np.nan)}, "contains NaN"),
        ({"input": np.full((1, 3, 8, 8), np.inf)}, "float64, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), np.int8)}, "int8, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), bool)}, "bool, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), ">u2")}, ">u2, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), complex)}, "complex128, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), [("a", "u1")])}, "expected uint8"),
        ({"input": np.full((1, 3, 8, 8), None)}, "object, expected uint8"),
        ({"input": np.zeros((1, 3, 8, 8), np.uint8).tolist()}, "int64, expected uint8"),
        ({"input": np.zeros((1, 8, 8, 3), np.uint8)}, "shape [1, 8, 8, 3], expected [batch, 3, 8, 8]"),
        ({"input": np.zeros((1, 3, 0, 8), np.uint8)}, "shape [1, 3, 0, 8]"),
        ({"input": np.zeros((1, 3, 8, 8, 0), np.uint8)}, "shape [1, 3, 8, 8, 0]"),
        ({"input": np.uint8(3)}, "shape []"),
        ({"input": None}, "object, expected uint8"),
        ({"input": "ship.png"}, "expected uint8"),
        ({"input": [[1], [2, 3]]}, "is no array"),
        ({"input": np.zeros((1, 3, 8, 8), np.uint8), "mask": 0}, "['input', 'mask'] were given"),
        (None, "the input feed is NoneType, expected {'input': images}"),
        ([np.zeros((1, 3, 8, 8), np.uint8)], "the input feed is list"),
    ],
)
def test_wrong_input_is_refused(session, feed, words):
    with pytest.raises(InputError) as error:
        session.run(None, feed)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [["probabilities"], ["logits", "logits"], "logits", [None]])
def test_unknown_output_is_refused(session, builder, names):
    with pytest.raises(InputError, match=r"the model has \['logits'\]"):
        session.run(names, {"input": builder.images(1)})


def test_errors_are_one_tree():
    assert issubclass(ModelError, BitplaneError)
    assert issubclass(InputError, BitplaneError)


def test_import_loads_neither_torch_nor_another_room():
    code = (
        "import sys, bitplane.runtime\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'onnxruntime')"
        " or m.startswith(('bitplane.train', 'bitplane.export', 'bitplane.cli', 'bitplane.benchmarks'))]\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
