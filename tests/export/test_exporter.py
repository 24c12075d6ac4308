"""Whole networks: the file computes what PyTorch computes, follows FORMAT.md, and explains itself."""

import dataclasses
import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bitplane.export import to_onnx
from bitplane.format import names as fmt

FORMS = {
    "ternary, shortcut A": {"activations": 2},
    "quaternary, shortcut B": {"weights": "quaternary", "activations": 4, "shortcut": "B"},
    "binary, 8 bits, one scale a layer": {"weights": "binary", "activations": 8, "scale": "layer"},
    "fixed ternary set": {"activations": 4, "scale": "none"},
    "1 bit, shortcut A": {"weights": "binary", "activations": 1},
    "1 bit, shortcut B": {"weights": "ternary", "activations": 1, "shortcut": "B"},
    "ReActNet": {"weights": "binary", "activations": 1, "one_bit": "reactnet"},
    "calibrated": {"activations": 32},
    "a level set a layer": {"layer_weights": ("layer3.*=binary", "*.conv2=quaternary")},
    "gray images": {"channels": 1, "zero_point": 0, "pixel_scale": 255.0},
    "ResNet-18": {"model": "resnet18", "size": 40},
    "ResNet-18, 1 bit": {"model": "resnet18", "weights": "binary", "activations": 1, "size": 40},
    "ResNet-50, ReActNet": {"model": "resnet50", "weights": "ternary", "activations": 1, "one_bit": "reactnet", "size": 40},
    "ResNet-50": {"model": "resnet50", "activations": 4, "size": 40, "samples": 2},
    "ResNet-50, 1 bit": {"model": "resnet50", "weights": "binary", "activations": 1, "size": 40, "samples": 2},
}
METADATA = {
    "method": "pc",
    "dataset": "cifar10",
    "checkpoint_sha256": "ab" * 32,
    "accuracy": {"test_top1": 0.91, "epochs": 40},
}
ATTRIBUTES = {
    fmt.PIXEL_CONV: {"strides", "pads"},
    fmt.BINARY_CONV: {"weight_shape", "strides", "pads"},
    fmt.TERNARY_CONV: {"weight_shape", "strides", "pads"},
    fmt.QUATERNARY_CONV: {"weight_shape", "strides", "pads"},
    fmt.QUANTIZE: {"top"},
    fmt.SIGN: set(),
    fmt.CHANNEL_SIGN: set(),
    fmt.PAD_SHORTCUT: {"steps", "pads"},
    "Relu": set(),
    "PRelu": set(),
    "Add": set(),
    "MaxPool": {"kernel_shape", "strides", "pads"},
    "GlobalAveragePool": set(),
    "Flatten": {"axis"},
    "Gemm": {"transB"},
    fmt.INT8_WEIGHT: set(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_computes_what_the_network_does(make_network, tmp_path, form: str) -> None:
    model, samples = make_network(**FORMS[form])
    report = to_onnx(model, samples, tmp_path / "model.onnx")
    assert report.samples == len(samples)
    assert report.reference_top1_agreement == 1
    with torch.no_grad():
        spread = np.ptp(model(samples).numpy(), axis=1).mean()
    assert report.reference_max_logit_difference < 1e-4 * spread
    assert report.reference_code_mismatch < 5e-4
    file = onnx.load(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size == report.bytes
    assert [layer.name for layer in report.layers] == [n.name for n in file.graph.node if n.op_type.endswith(("Conv", "Gemm"))]
    assert [layer.operator for layer in report.layers[-1:]] == ["Gemm"]
    assert all(bool(layer.reason) == (layer.operator == "Gemm") for layer in report.layers)
    modules = dict(model.named_modules())
    for layer in report.layers:
        assert layer.weight_shape[: modules[layer.name].weight.dim()] == tuple(modules[layer.name].weight.shape)
    for node in file.graph.node:
        assert {a.name for a in node.attribute} == ATTRIBUTES[node.op_type]
    assert {f.name for f in file.functions} == {n.op_type for n in file.graph.node if n.domain == fmt.DOMAIN}


def test_layers_agree_with_pytorch_one_by_one(make_network, tmp_path) -> None:
    """Features of every convolution of a 1-bit network, read from inside the file, against hooks on the network's BatchNorm."""
    model, samples = make_network(weights="binary", activations=1, shortcut="B")
    to_onnx(model, samples, tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    names = [n.name for n in file.graph.node if n.op_type == fmt.BINARY_CONV]
    stem = next(n for n in file.graph.node if n.op_type == fmt.PIXEL_CONV).output[0]
    outputs = [n.output[0] for n in file.graph.node if n.name in names]
    file.graph.output.extend(onnx.helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in [stem, *outputs])
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    stem_value, *values = session.run([stem, *outputs], {"input": samples.numpy()})
    seen: dict[str, np.ndarray] = {}
    follows = {n: n.replace("conv", "bn") if "conv" in n else n.removesuffix("0") + "1" for n in names}
    for name, bn in follows.items():
        model.get_submodule(bn).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.numpy()}))
    model.bn1.register_forward_hook(lambda *_: torch.from_numpy(np.array(stem_value)))
    with torch.no_grad():
        model(samples)
    assert len(names) == 20
    for name, value in zip(names, values, strict=True):
        np.testing.assert_allclose(value, seen[name], rtol=1e-4, atol=1e-4)


def test_onnx_reference_gives_the_logits_of_onnxruntime(make_network, tmp_path) -> None:
    model, samples = make_network(size=8, samples=2)
    to_onnx(model, samples, tmp_path / "model.onnx")
    x = {"input": samples.numpy()}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, x)[0]
    np.testing.assert_allclose(session.run(None, x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "form", [{}, {"shortcut": "B"}, {"activations": 4}, {"model": "resnet18", "size": 40}, {"model": "resnet50", "size": 40}]
)
def test_float_weights_become_a_plain_float_twin(make_network, tmp_path, form: dict) -> None:
    model, samples = make_network(weights="float", **{"activations": 32, **form})
    report = to_onnx(model, samples, tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    assert not file.functions
    assert {n.domain for n in file.graph.node} == {""}
    assert [o.domain for o in file.opset_import] == [""]
    assert report.top1_agreement == 1
    with torch.no_grad():
        spread = np.ptp(model(samples).numpy())
    assert report.max_logit_difference < 0.02 * spread
    assert report.reference_max_logit_difference < 1e-4 * spread
    properties = {p.key: p.value for p in file.metadata_props}
    assert set(properties) == set(fmt.METADATA_KEYS)
    assert properties[fmt.META_LEVEL_SET] == "float"


def test_a_file_explains_itself(make_network, tmp_path) -> None:
    model, samples = make_network(activations=32)
    metadata = {
        "model": "resnet20",
        "method": "pc",
        "dataset": "cifar10",
        "classes": tuple("abcdefghij"),
        "accuracy": {"test_top1": 0.91, "epochs": 40},
        "checkpoint_sha256": "ab" * 32,
    }
    report = to_onnx(model, samples, tmp_path / "model.onnx", metadata=metadata)
    file = onnx.load(tmp_path / "model.onnx")
    properties = {p.key: p.value for p in file.metadata_props}
    assert set(properties) == set(fmt.METADATA_KEYS)
    names = [i for n in file.graph.node if n.op_type in fmt.LEVELS for i in n.input[1:][: len(fmt.LEVELS[n.op_type].planes)]]
    stored = {t.name: t.raw_data for t in file.graph.initializer}
    assert len(names) == 36
    assert properties[fmt.META_PLANES_SHA256] == hashlib.sha256(b"".join(stored[n] for n in names)).hexdigest()
    assert properties[fmt.META_FORMAT_VERSION] == "1.4"
    assert properties[fmt.META_MODEL] == "resnet20"
    assert properties[fmt.META_METHOD] == "pc"
    assert properties[fmt.META_LEVEL_SET] == "ternary"
    assert properties[fmt.META_ACTIVATION_BITS] == "8"
    assert json.loads(properties[fmt.META_CLASSES]) == list("abcdefghij")
    assert json.loads(properties[fmt.META_INPUT]) == {
        "size": [16, 16],
        "resize": "bilinear",
        "fit": "stretch",
        "channels": 3,
        "mean": [121.0] * 3,
        "std": [64.0] * 3,
        "zero_point": 121,
        "scale": 64.0,
    }
    assert json.loads(properties[fmt.META_ACCURACY]) == metadata["accuracy"]
    assert properties[fmt.META_CHECKPOINT_SHA256] == "ab" * 32
    check = json.loads(properties[fmt.META_VERIFICATION])
    assert check["samples"] == 4
    assert check["top1_agreement"] == report.top1_agreement
    assert file.ir_version == fmt.IR_VERSION
    assert {(o.domain, o.version) for o in file.opset_import} == {("", fmt.OPSET_VERSION), (fmt.DOMAIN, fmt.DOMAIN_VERSION)}
    shape = file.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param == fmt.BATCH_AXIS
    assert [d.dim_value for d in shape[1:]] == [3, 16, 16]
    assert json.dumps(dataclasses.asdict(report))


def test_ternary_resnet20_is_a_twelfth_of_its_float_file(make_network, tmp_path) -> None:
    packed = to_onnx(*make_network(), tmp_path / "packed.onnx", metadata=METADATA)
    twin = to_onnx(*make_network(weights="float", activations=32), tmp_path / "float.onnx", metadata=METADATA)
    assert packed.bytes * 12 <= twin.bytes


def test_equal_networks_give_equal_bytes_and_the_network_is_left_alone(make_network, tmp_path) -> None:
    model, samples = make_network(activations=32)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name in ("a", "b"):
        to_onnx(model, samples, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
