"""Float layers beside low-bit ones: every value equals onnxruntime's to rounding, with the sums' order left open."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplane.runtime import InferenceSession
from bitplane.runtime.inspect.reference import evaluate
from bitplane.runtime.model.parse import parse


def compare(builder, count=2, threads=1):
    """Logits and float features of a graph whose codes, if any, come before its first float convolution."""
    images, model = builder.images(count), builder.model()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"input": images})[0]
    session = InferenceSession(model.SerializeToString(), threads=threads)
    found = session.run(None, {"input": images})[0]
    scale = np.abs(expected).max() + 1
    np.testing.assert_allclose(found / scale, expected.reshape(count, -1) / scale, atol=1e-5, rtol=0)
    for merge in (True, False):
        traced = session.trace({"input": images}, merge)
        np.testing.assert_allclose(traced["logits"] / scale, found / scale, atol=2e-6, rtol=0)
    own = evaluate(parse(model.SerializeToString()), images[0])
    np.testing.assert_allclose(np.asarray(own["logits"]).ravel() / scale, found[0] / scale, atol=1e-5, rtol=0)
    return session


@pytest.mark.parametrize("stored", ["float", "Int8", "Binary", "Ternary", "Quaternary", "FourLevel"])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [((1, 1), 1, 0), ((3, 3), 1, 1), ((3, 3), 2, 1), ((7, 7), 2, 3), ((2, 3), 1, 0)]
)
def test_a_float_convolution_of_every_kind_of_weight(graphs, stored, kernel, stride, pad):
    b = graphs.Builder(1, 5, 11, 13)
    x = b.op("Relu", b.normalize())
    y = b.float_conv(x, 19, kernel, (stride, stride), (pad,) * 4, stored=stored)
    b.classifier(y)
    kernels = compare(b).kernels()
    assert any(name.startswith("float32") for name in kernels.values())


@pytest.mark.parametrize(("channels", "group", "out"), [(12, 4, 8), (16, 16, 16), (6, 2, 34)])
def test_groups_equal_onnxruntimes(graphs, channels, group, out):
    b = graphs.Builder(2, 3, 9, 9)
    x = b.pixel_conv(channels, 3)
    b.classifier(b.float_conv(x, out, (3, 3), (1, 1), (1, 1, 1, 1), group=group))
    compare(b)


def test_a_float_input_and_a_network_without_gemm(graphs):
    b = graphs.Builder(3, 3, 8, 8)
    b.floats = True
    x = b.op("Relu", b.float_conv("input", 16, (3, 3), (1, 1), (1, 1, 1, 1)))
    y = b.op("Add", b.float_conv(x, 16, (1, 1)), x)
    p = b.op("GlobalAveragePool", y, shape=(16, 1, 1))
    z = b.float_conv(p, 10, (1, 1))
    b.nodes.append(graphs.h.make_node("Flatten", [z], ["logits"], name="flatten"))
    b.shapes["logits"] = (10,)
    session = compare(b)
    assert session.get_inputs()[0].type == "tensor(float)"


def test_a_residual_that_a_float_convolution_reads_itself_is_not_overwritten(graphs):
    b = graphs.Builder(4, 3, 6, 40)
    b.floats = True
    x = b.op("Relu", b.op("Add", "input", "input"))
    x = b.float_conv(x, 80, (1, 1))
    y = b.op("Add", b.float_conv(x, 80, (1, 1)), x)
    b.classifier(b.op("Relu", y))
    compare(b)


def test_quantized_values_beside_the_codes_of_the_same_features(graphs, check):
    b = graphs.Builder(5, 3, 10, 10)
    x = b.op("Relu", b.pixel_conv(20, 3))
    low = b.conv(b.quantize(x, 2), "Ternary", 20, (3, 3), (1, 1), (1, 1, 1, 1))
    y = b.op("Add", low, b.fake_quantize(x, 0, 15))
    z = b.op("Add", b.bipolar(y), b.fake_quantize(y, -127, 127, 0.03))
    b.classifier(z)
    check(b)


def test_several_threads_share_an_image_with_float_layers(graphs, monkeypatch):
    from bitplane.runtime import session

    monkeypatch.setattr(session, "SHARED_STEP_WORK", 0)
    b = graphs.Builder(6, 3, 24, 24)
    x = b.fake_quantize(b.op("Relu", b.float_conv(b.normalize(), 40, (3, 3), (1, 1), (1, 1, 1, 1))), 0, 15)
    b.classifier(b.float_conv(x, 33, (3, 3), (2, 2), (1, 1, 1, 1), stored="Ternary"))
    images = b.images(1)
    one, two = (InferenceSession(b.model().SerializeToString(), threads=n).run(None, {"input": images})[0] for n in (1, 3))
    np.testing.assert_array_equal(one, two)


@given(
    seed=st.integers(0, 2**16),
    channels=st.integers(1, 40),
    out=st.integers(1, 70),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(4, 12), st.integers(4, 20)),
    stored=st.sampled_from(["float", "Int8", "Binary", "Ternary", "Quaternary", "FourLevel"]),
    data=st.data(),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_random_float_convolutions(graphs, seed, channels, out, kernel, stride, size, stored, data):
    pads = tuple(data.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    b = graphs.Builder(seed, channels, *size)
    b.floats = True
    b.classifier(b.float_conv("input", out, kernel, stride, pads, stored=stored), 3)
    compare(b, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_images_that_are_not_finite_are_refused(graphs, value):
    from bitplane.runtime import InputError

    b = graphs.Builder(7, 3, 6, 6)
    b.floats = True
    b.classifier(b.float_conv("input", 16, (1, 1)))
    session = InferenceSession(b.model().SerializeToString())
    images = b.images(1)
    images[0, 1, 2, 3] = value
    with pytest.raises(InputError, match="contains NaN or infinity"):
        session.run(None, {"input": images})
    with pytest.raises(InputError, match="is uint8, expected float32"):
        session.run(None, {"input": images.astype(np.uint8) if np.isfinite(value) else np.zeros((1, 3, 6, 6), np.uint8)})


def test_float_images_at_an_odd_address_give_the_same_bits(graphs):
    b = graphs.Builder(7, 3, 6, 6)
    b.floats = True
    b.classifier(b.float_conv("input", 16, (1, 1)))
    session, images = InferenceSession(b.model().SerializeToString()), b.images(2)
    odd = np.frombuffer(b"\1" + images.tobytes(), np.uint8)[1:].view(np.float32).reshape(images.shape)
    assert not odd.flags.aligned
    np.testing.assert_array_equal(session.run(None, {"input": odd})[0], session.run(None, {"input": images})[0])


@pytest.mark.parametrize("relu", [False, True])
def test_a_network_that_overflows_says_so_as_onnxruntime_does(graphs, relu):
    b = graphs.Builder(8, 3, 6, 6)
    x = b.float_conv(b.bipolar(b.normalize(), np.float32(3.4e38)), 16, (3, 3))
    y = b.float_conv(b.op("Add", x, b.float_conv(x, 16, (1, 1))), 16, (1, 1))
    b.classifier(b.op("Relu", y) if relu else y)
    data, images = b.model().SerializeToString(), b.images(1)
    assert np.isnan(onnxruntime.InferenceSession(data).run(None, {"input": images})[0]).all()
    assert np.isnan(InferenceSession(data).run(None, {"input": images})[0]).all()
