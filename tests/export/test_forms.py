"""Every form of one network computes the same, in every engine that reads it, under names that a person can read."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from bitplane.export import to_onnx
from bitplane.format import names as fmt
from bitplane.runtime import InferenceSession, ModelError

FORMS = ("packed", "inlined", "dequantized", "qonnx")


@pytest.fixture
def files(make_network, tmp_path):
    model, samples = make_network(activations=4, shortcut="B", samples=8)
    made = {form: tmp_path / f"{form}.onnx" for form in FORMS}
    return {form: (path, to_onnx(model, samples, path, form=form)) for form, path in made.items()}, samples.numpy()


def test_all_forms_name_the_same_classes_and_say_what_they_are(files) -> None:
    made, x = files
    expected = InferenceSession(made["packed"][0]).run(None, {"input": x})[0]
    for form in ("packed", "inlined", "dequantized"):
        path, report = made[form]
        file = onnx.load(path)
        onnx.checker.check_model(file, full_check=True)
        onnx.shape_inference.infer_shapes(file, check_type=True, strict_mode=True)
        assert report.form == form
        assert bool(file.functions) == (form == "packed")
        for logits in (
            onnxruntime.InferenceSession(path).run(None, {"input": x})[0],
            ReferenceEvaluator(file).run(None, {"input": x})[0],
        ):
            # Codes may fall on either side of a tie where weights are float.
            np.testing.assert_allclose(logits, expected, atol=1e-4 if form != "dequantized" else 0.05 * np.ptp(expected))
        assert {p.key for p in file.metadata_props} == set(fmt.METADATA_KEYS)


def test_layers_keep_their_names_in_every_form(files) -> None:
    made, _ = files
    for form, (path, report) in made.items():
        names = {o for node in onnx.load(path).graph.node for o in node.output}
        # The last layer's output is the file's.
        assert {layer.name for layer in report.layers} - names <= {"fc"}, form


def test_the_runtime_reads_only_the_packed_form(files) -> None:
    made, _ = files
    for form in ("inlined", "dequantized", "qonnx"):
        with pytest.raises(ModelError, match=r"plain ONNX model|not part of format"):
            InferenceSession(made[form][0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["inlined", "dequantized"])
def test_openvino_names_the_same_classes(files, form: str) -> None:
    openvino = pytest.importorskip("openvino")
    made, x = files
    expected = InferenceSession(made["packed"][0]).run(None, {"input": x})[0]
    compiled = openvino.Core().compile_model(str(made[form][0]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = compiled(x)[0]
    assert (logits.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.ptp(expected))
