"""A float ONNX model: convolutions become low-bit after training, everything else stays."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bitplane.export import ExportError, Quantization, to_onnx
from bitplane.runtime import InferenceSession, ModelError

RNG = np.random.default_rng(0)


def graph(tail=(), *, opset=18, before=(), extra=(), input_type=TensorProto.FLOAT, output="logits", functions=()):
    """conv - BatchNorm - Relu - conv - Add - Relu - pool - Gemm, then `tail` on "gemm"; names as exporters write them."""

    def normal(*shape):
        return RNG.normal(0, 0.3, shape).astype(np.float32)

    constants = {
        "stem.weight": normal(16, 3, 3, 3),
        "bn.weight": normal(16),
        "bn.bias": normal(16),
        "bn.mean": normal(16),
        "bn.var": np.abs(normal(16)) + 0.5,
        "body.conv.weight": normal(16, 16, 3, 3),
        "body.conv.bias": normal(16),
        "fc.weight": normal(10, 16),
        "fc.bias": normal(10),
        **dict(extra),
    }
    nodes = [
        *before,
        helper.make_node("Conv", ["input", "stem.weight"], ["a"], name="n1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="n2"),
        helper.make_node("Relu", ["b"], ["c"], name="n3"),
        helper.make_node("Conv", ["c", "body.conv.weight", "body.conv.bias"], ["d"], name="n4", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "c"], ["e"], name="n5"),
        helper.make_node("Relu", ["e"], ["f"], name="n6"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="n7"),
        helper.make_node("Flatten", ["g"], ["h"], name="n8"),
        helper.make_node("Gemm", ["h", "fc.weight", "fc.bias"], ["gemm"], name="n9", transB=1),
        *(tail or [helper.make_node("Identity", ["gemm"], ["logits"])]),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", input_type, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, functions=functions)


@pytest.fixture
def samples():
    return torch.from_numpy(np.random.default_rng(1).normal(0, 1, (32, 3, 8, 8)).astype(np.float32))


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x})[0]


def test_a_float_model_stays_exact_and_gets_its_layers_names(tmp_path, samples) -> None:
    model = graph()
    report = to_onnx(model, samples, tmp_path / "m.onnx")
    assert [layer.name for layer in report.layers] == ["stem", "body.conv", "fc"]
    np.testing.assert_allclose(run(onnx.load(tmp_path / "m.onnx"), samples.numpy()), run(model, samples.numpy()), atol=1e-5)


@pytest.mark.parametrize("weights", ["binary", "ternary", "quaternary", "int8"])
def test_convolutions_turn_low_bit_after_training(tmp_path, samples, weights: str) -> None:
    model = graph()
    report = to_onnx(model, samples, tmp_path / "m.onnx", quantization=Quantization(weights=weights))
    assert [layer.levels for layer in report.layers] == ["float", weights, "int8"]
    x = samples.numpy()
    ours = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x})[0]
    np.testing.assert_allclose(ours, run(onnx.load(tmp_path / "m.onnx"), x), atol=1e-4)
    error = np.abs(ours - run(model, x)).mean() / np.abs(run(model, x)).mean()
    assert error < {"int8": 0.02, "quaternary": 0.3, "ternary": 0.5, "binary": 1.0}[weights]


@pytest.mark.parametrize("kind", ["PRelu", "LeakyRelu"])
def test_negative_slopes_run_in_the_runtime(tmp_path, samples, kind: str) -> None:
    slopes = RNG.normal(0.2, 0.3, (16, 1, 1)).astype(np.float32)
    model = graph(extra={"slopes": slopes} if kind == "PRelu" else {})
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = kind
            if kind == "PRelu":
                node.input.append("slopes")
    x = samples.numpy()
    to_onnx(model, samples, tmp_path / "m.onnx")
    np.testing.assert_allclose(run(onnx.load(tmp_path / "m.onnx"), x), run(model, x), atol=1e-5)
    to_onnx(model, samples, tmp_path / "t.onnx", quantization=Quantization(weights="ternary"))
    found = InferenceSession(tmp_path / "t.onnx").run(None, {"input": x})[0]
    np.testing.assert_allclose(found, run(onnx.load(tmp_path / "t.onnx"), x), atol=1e-4)


def test_pixels_and_their_normalization_make_an_integer_stem(tmp_path) -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (16, 3, 8, 8)).astype(np.uint8))
    model = graph()
    how = Quantization(weights="ternary")
    report = to_onnx(model, pixels, tmp_path / "m.onnx", normalize=((120, 118, 110), (60, 58, 57)), quantization=how)
    assert report.layers[0].operator == "PixelConv"
    file = onnx.load(tmp_path / "m.onnx")
    assert file.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    ours = InferenceSession(tmp_path / "m.onnx").run(None, {"input": pixels.numpy()})[0]
    np.testing.assert_allclose(ours, run(file, pixels.numpy()), atol=1e-4)


def test_what_is_not_understood_is_kept_and_named_by_the_runtime(tmp_path, samples) -> None:
    tail = [
        helper.make_node("HardSwish", ["gemm"], ["swish"], name="swish"),
        helper.make_node("Softmax", ["swish"], ["logits"], name="soft", axis=1),
    ]
    model = graph(tail)
    how = Quantization(weights="ternary", edges=32)
    with pytest.raises(ExportError, match=r"cannot run the file \(node 'swish' \(HardSwish\).*; add --allow-unrunnable"):
        to_onnx(model, samples, tmp_path / "m.onnx", quantization=how)
    assert list(tmp_path.iterdir()) == []
    report = to_onnx(model, samples, tmp_path / "m.onnx", quantization=how, allow_unrunnable=True)
    assert "'HardSwish' is not part" in report.unrunnable
    file = onnx.load(tmp_path / "m.onnx")
    assert [n.op_type for n in file.graph.node][-2:] == ["HardSwish", "Softmax"]
    assert report.reference_max_logit_difference < 1e-4
    with pytest.raises(ModelError, match=r"node 'swish' \(HardSwish\): operator 'HardSwish' is not part"):
        InferenceSession(tmp_path / "m.onnx")


def test_an_older_opset_with_kept_operators_is_converted(tmp_path, samples) -> None:
    tail = [helper.make_node("Softmax", ["gemm"], ["logits"], name="soft")]
    model = graph(tail, opset=11)
    to_onnx(model, samples, tmp_path / "m.onnx")
    np.testing.assert_allclose(run(onnx.load(tmp_path / "m.onnx"), samples.numpy()), run(model, samples.numpy()), atol=1e-5)


def mul_bomb():
    size = 1 << 15
    extra = {"wide": np.ones((1, size), np.float32), "high": np.ones((size, 1), np.float32)}
    before = [helper.make_node("Mul", ["wide", "high"], ["bomb"], name="bomb")]
    return graph(before=before, extra=extra.items())


def expand_bomb():
    extra = {"one": np.ones(1, np.float32), "huge": np.array([1 << 20, 1 << 20])}
    return graph(before=[helper.make_node("Expand", ["one", "huge"], ["bomb"], name="bomb")], extra=extra.items())


def two_inputs():
    model = graph()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    return model


def own_functions():
    body = helper.make_function(
        "own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    return graph(functions=[body])


def custom_operator():
    model = graph([helper.make_node("Odd", ["gemm"], ["logits"], name="odd", domain="com.example")])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (mul_bomb, "'bomb' \\(Mul\\) would make 1073741824 constants"),
        (expand_bomb, "'bomb' \\(Expand\\) of constants is not folded"),
        (two_inputs, "has 2 inputs"),
        (own_functions, "has model-local functions"),
        (custom_operator, r"'odd' \(com.example.Odd\) is not supported; supported are standard operators"),
        (lambda: graph(opset=6), "opset 6 is not supported"),
        (lambda: graph(input_type=TensorProto.INT64), "neither uint8 nor float32"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused(tmp_path, samples, make, match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        to_onnx(make(), samples, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_samples_of_another_shape_are_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"input 'input' has shape .* the samples are"):
        to_onnx(graph(), torch.zeros(2, 3, 9, 9), tmp_path / "m.onnx")
