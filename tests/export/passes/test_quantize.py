"""Calibrated steps minimize the squared error of real activations."""

import onnx
import pytest
import torch

from bitplane.export import ExportError, Quantization, to_onnx
from bitplane.export.evaluate import evaluate
from bitplane.export.nodes.conv import Conv
from bitplane.export.passes.calibrate import best_step
from bitplane.export.passes.fold import fold_affine
from bitplane.export.passes.quantize import quantize
from bitplane.export.read.torch import read_torch
from bitplane.runtime import InferenceSession


def error(x: torch.Tensor, step: float, bits: int) -> float:
    return float((((x / step).round().clamp(0, 2**bits - 1) * step) - x).square().mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_is_as_good_as_a_fine_search(bits: int) -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)).relu()
    step = best_step(x, x.max().item(), bits)
    finest = min(error(x, float(s), bits) for s in torch.linspace(0.02, 1.02, 400) * x.max() / (2**bits - 1))
    assert error(x, step, bits) <= finest * 1.05


def test_an_outlier_is_clipped_at_few_bits() -> None:
    x = torch.cat([torch.rand(10000, generator=torch.Generator().manual_seed(0)), torch.tensor([4.0])])
    assert best_step(x, 4.0, 2) * 3 < 2


def test_a_dead_tensor_has_a_positive_step() -> None:
    assert best_step(torch.zeros(10), 0.0, 8) > 0


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_every_calibration_gives_codes_for_the_layers_that_need_them(make_network, tmp_path, calibration) -> None:
    model, samples = make_network(activations=32, samples=16)
    how = Quantization(activations=4, calibration=calibration)
    report = to_onnx(model, samples, tmp_path / "m.onnx", quantization=how)
    assert all(layer.operator == "TernaryConv" for layer in report.layers[1:-1])
    tops = [n.attribute[0].ints[0] for n in onnx.load(tmp_path / "m.onnx").graph.node if n.op_type == "Quantize"]
    assert tops == [15] * 18


def test_minmax_keeps_the_largest_value_and_percentile_does_not() -> None:
    x = torch.cat([torch.rand(20000, generator=torch.Generator().manual_seed(0)), torch.tensor([50.0])])
    assert best_step(x, 50.0, 8, "minmax") == 50 / 255
    assert best_step(x, 50.0, 8, "percentile") < 2 / 255


@pytest.mark.parametrize(("correction", "limit"), [("bias", 5e-3), ("statistics", 5e-3)])
def test_corrected_channels_have_the_mean_and_spread_of_the_float_network(make_network, correction, limit) -> None:
    model, samples = make_network(weights="float", activations=32, samples=16)
    network = fold_affine(read_torch(model, (3, 16, 16)))
    own = quantize(network, Quantization(weights="ternary", activations=8, correction=correction), samples)
    seen: list[dict[str, torch.Tensor]] = []
    for n in (network, own):
        values: dict[str, torch.Tensor] = {}
        evaluate(n, samples, visit=lambda node, value, values=values: values.update({node.name: value}))
        seen.append(values)
    for conv in (n for n in own.nodes if isinstance(n, Conv)):
        if conv.dense:
            continue
        a, b = (v[conv.name] for v in seen)
        torch.testing.assert_close(b.mean((0, 2, 3)), a.mean((0, 2, 3)), atol=limit, rtol=limit)
        if correction == "statistics" and conv.weight.levels == "ternary":
            ratio = b.std((0, 2, 3)) / a.std((0, 2, 3))
            assert ((ratio - 1).abs() < 1e-3).float().mean() > 0.9  # a channel without spread is left alone


def test_layers_that_are_kept_stay_float_and_weights_stay_where_they_were_trained(make_network, tmp_path) -> None:
    model, samples = make_network(weights="float", activations=32)
    how = Quantization(weights="binary", keep=("layer1.*", "layer2.0.conv1"))
    report = to_onnx(model, samples, tmp_path / "m.onnx", quantization=how)
    levels = {layer.name: layer.levels for layer in report.layers}
    assert {v for k, v in levels.items() if k.startswith("layer1.") or k == "layer2.0.conv1"} == {"float"}
    assert {v for k, v in levels.items() if k.startswith("layer3.")} == {"binary"}
    assert (levels["conv1"], levels["fc"]) == ("int8", "int8")


def test_float_edges_and_float_activations(make_network, tmp_path) -> None:
    model, samples = make_network(activations=32)
    report = to_onnx(model, samples, tmp_path / "m.onnx", quantization=Quantization(activations=32, edges=32))
    assert [layer.levels for layer in report.layers] == ["float", *["ternary"] * 18, "float"]
    assert {layer.operator for layer in report.layers} == {"Conv", "Gemm"}
    assert report.max_logit_difference < 1e-3
    assert report.bytes < 100_000
    ours = InferenceSession(tmp_path / "m.onnx").run(None, {"input": samples.numpy()})[0]
    with torch.no_grad():
        assert (ours - model(samples).numpy()).__abs__().max() < 1e-3


def test_a_pattern_that_names_no_layer_is_refused(make_network, tmp_path) -> None:
    model, samples = make_network()
    with pytest.raises(ExportError, match=r"no layer is called 'stem'; layers are conv1, layer1\.0\.conv1"):
        to_onnx(model, samples, tmp_path / "m.onnx", quantization=Quantization(keep=("stem",)))


@pytest.mark.parametrize(
    "option", [{"weights": "2bit"}, {"activations": 3}, {"calibration": "kl"}, {"correction": "x"}, {"edges": 4}]
)
def test_an_unknown_option_is_refused(option) -> None:
    with pytest.raises(ExportError, match="must be one of"):
        Quantization(**option)


def test_quantizing_is_reproducible(make_network, tmp_path) -> None:
    model, samples = make_network(weights="float", activations=32, size=32, samples=8)
    for name in ("a", "b"):
        to_onnx(model, samples, tmp_path / name, quantization=Quantization(weights="quaternary", activations=4))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
