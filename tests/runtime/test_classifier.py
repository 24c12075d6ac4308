"""The classifier, of float32 and of int8 weights, in blocks of classes: onnxruntime's values."""

import numpy as np
import pytest
from onnx import numpy_helper

from bitplane.runtime import InferenceSession


@pytest.mark.parametrize("stored", ["float", "Int8"])
@pytest.mark.parametrize("classes", [1, 10, 16, 17, 64, 65, 200])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_classes_equals_onnxruntime(graphs, check, monkeypatch, stored, classes, threads):
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)
    b = graphs.Builder(classes, 3, 6, 5)
    b.classifier(b.op("Relu", b.pixel_conv(37, 3)), classes, stored)
    session = check(b, count=1, threads=threads)
    fc = session.layers()[-1]
    assert fc.kernel.endswith("int8 weights") == (stored == "Int8")


def test_a_logit_adds_its_products_in_the_order_of_the_channels(graphs):
    """In float32, each product and sum rounded once: what numpy does, one operation at a time."""
    b = graphs.Builder(3, 3, 4, 4)
    b.classifier(b.pixel_conv(48, 3), 70, "Int8")
    model, image = b.model(), b.images(1)
    session = InferenceSession(model.SerializeToString())
    features = session.trace({"input": image})["stem1"][0]
    mean = np.zeros(48, np.float32)
    for pixel in features.reshape(48, -1).T:
        mean += pixel
    mean /= np.float32(16)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {n.name: n for n in model.graph.node}
    integers, unit = (constants[name] for name in next(n for n in found.values() if n.op_type == "Int8Weight").input)
    weight = integers.astype(np.float32) * unit
    expected = constants[found["fc"].input[2]].copy()
    for c in range(48):
        expected += mean[c] * weight[:, c]
    np.testing.assert_array_equal(session.run(None, {"input": image})[0][0], expected, strict=True)
