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


def test_images_need_not_be_contiguous(builder, session):
    images = builder.images(2)
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(session.run(None, {"input": turned})[0], session.run(None, {"input": images})[0])


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"x": np.zeros((1, 3, 8, 8), np.uint8)}, "['x'] were given, the model has ['input']"),
        ({}, "[] were given"),
        ({"input": np.zeros((3, 8, 8), np.uint8)}, "shape [3, 8, 8], expected [batch, 3, 8, 8]"),
        ({"input": np.zeros((1, 3, 8, 9), np.uint8)}, "shape [1, 3, 8, 9]"),
        ({"input": np.zeros((1, 3, 8, 8), np.float32)}, "float32, expected uint8"),
        ({"input": np.full((1, 3, 8, 8), np.nan)}, "contains NaN"),
        ({"input": np.zeros((1, 3, 8, 8), np.int8)}, "int8, expected uint8"),
    ],
)
def test_wrong_input_is_refused(session, feed, words):
    with pytest.raises(InputError) as error:
        session.run(None, feed)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_output_is_refused(session, builder):
    with pytest.raises(InputError, match="'logits'"):
        session.run(["probabilities"], {"input": builder.images(1)})


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
