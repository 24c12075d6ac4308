"""One spelling: the three ways to export take the same arguments in the same order."""

import inspect

import pytest

import bitplane
from bitplane.export import export_file, export_run, to_onnx


@pytest.mark.parametrize("function", [export_run, export_file])
def test_source_samples_path_and_the_same_options(function) -> None:
    expected, found = (inspect.signature(f).parameters for f in (to_onnx, function))
    assert list(expected)[:3] == ["source", "samples", "path"]
    assert [n for n in found if n not in ("count", "model")] == list(expected)  # of runs alone: how many images, which code
    for name, parameter in expected.items():
        assert found[name].kind == parameter.kind
        assert found[name].default == parameter.default
        assert name in ("source", "samples") or found[name].annotation == parameter.annotation


def test_the_import_root_exports(make_network, tmp_path) -> None:
    model, samples = make_network(size=8)
    report = bitplane.to_onnx(model, samples.numpy(), str(tmp_path / "m.onnx"))
    assert report.unrunnable == ""
    assert 0 <= report.top1_agreement <= 1
    assert bitplane.InferenceSession(report.path).run(None, {"input": samples.numpy()})[0].shape == (len(samples), 10)


@pytest.mark.parametrize("form", ["inlined", "dequantized", "qonnx"])
def test_a_report_says_that_other_forms_are_for_other_engines(make_network, tmp_path, form) -> None:
    report = bitplane.to_onnx(*make_network(size=8), tmp_path / "m.onnx", form=form)
    assert report.unrunnable == f"the form is {form}, for other engines"


def test_a_report_says_that_a_float_network_is_plain_onnx(make_network, tmp_path) -> None:
    report = bitplane.to_onnx(*make_network(size=8, weights="float", activations=32), tmp_path / "m.onnx")
    assert report.unrunnable.startswith("no weight is quantized")
