"""QONNX in and out: what Brevitas writes runs in the runtime, and what we write means the same when it is read back."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bitplane.export import ExportError, export_file, to_onnx
from bitplane.export.qonnx import DOMAIN, runnable
from bitplane.runtime import InferenceSession

FORMS = {
    "ternary": {"activations": 2},
    "quaternary": {"weights": "quaternary", "activations": 4, "shortcut": "B"},
    "binary, 1 bit": {"weights": "binary", "activations": 1},
    "ReActNet": {"weights": "binary", "activations": 1, "one_bit": "reactnet"},
    "calibrated": {"activations": 32},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back_as_the_same_network(make_network, tmp_path, form: str) -> None:
    model, samples = make_network(samples=16, **FORMS[form])
    packed = to_onnx(model, samples, tmp_path / "packed.onnx")
    to_onnx(model, samples, tmp_path / "q.onnx", form="qonnx")
    domains = {n.domain for n in onnx.load(tmp_path / "q.onnx").graph.node}
    assert domains == {"", DOMAIN}
    back = export_file(tmp_path / "q.onnx", samples, tmp_path / "back.onnx", normalize=(0, 1))
    assert [(a.operator, a.levels, a.bytes) for a in back.layers] == [(a.operator, a.levels, a.bytes) for a in packed.layers]
    first, second = (
        InferenceSession(tmp_path / n).run(None, {"input": samples.numpy()})[0] for n in ("packed.onnx", "back.onnx")
    )
    assert (first.argmax(1) == second.argmax(1)).mean() > 0.9


def quant(x, scale, bits, signed, narrow):
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
    return np.clip(np.rint(x / scale), low, high) * scale


@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    narrow=st.booleans(),
    scale=st.floats(0.0625, 2, width=32),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_quant_as_a_function_means_what_qonnx_says(bits, signed, narrow, scale, seed) -> None:
    x = np.random.default_rng(seed).normal(0, 3, (2, 3)).astype(np.float32)
    attributes = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
    node = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], domain=DOMAIN, **attributes)
    constants = {"s": np.float32(scale), "z": np.float32(0), "b": np.float32(bits)}
    graph = helper.make_graph(
        [node],
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)], ir_version=8)
    found = onnxruntime.InferenceSession(runnable(model).SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, quant(x, np.float32(scale), bits, signed, narrow), rtol=1e-6, atol=1e-6)


def test_another_rounding_mode_is_refused(make_network, tmp_path) -> None:
    model, samples = make_network(size=8)
    to_onnx(model, samples, tmp_path / "q.onnx", form="qonnx")
    file = onnx.load(tmp_path / "q.onnx")
    node = [n for n in file.graph.node if n.op_type == "Quant"][3]
    next(a for a in node.attribute if a.name == "rounding_mode").s = b"FLOOR"
    with pytest.raises(ExportError, match=r"rounds by .*FLOOR"):
        to_onnx(file, samples, tmp_path / "x.onnx", normalize=(0, 1))


def brevitas_network() -> nn.Module:
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerTensorFloat, SignedBinaryWeightPerTensorConst

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1 = qnn.QuantConv2d(
                channels, channels, 3, padding=1, bias=False, weight_bit_width=2, weight_quant=Int8WeightPerTensorFloat
            )
            self.bn1, self.relu1 = nn.BatchNorm2d(channels), qnn.QuantReLU(bit_width=2)
            self.conv2 = qnn.QuantConv2d(
                channels, channels, 3, padding=1, bias=False, weight_quant=SignedBinaryWeightPerTensorConst
            )
            self.bn2, self.relu2 = nn.BatchNorm2d(channels), qnn.QuantReLU(bit_width=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = qnn.QuantConv2d(3, 16, 3, padding=1, bias=False, weight_bit_width=8)
            self.bn, self.relu = nn.BatchNorm2d(16), qnn.QuantReLU(bit_width=4)
            self.layer1, self.layer2 = Block(16), Block(16)
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), qnn.QuantLinear(16, 10, bias=True, weight_bit_width=8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer2(self.layer1(self.relu(self.bn(self.conv1(x)))))
            return self.fc(torch.flatten(self.pool(x), 1))

    return Net()


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_brevitas_runs_in_the_runtime(tmp_path) -> None:
    pytest.importorskip("brevitas")
    pytest.importorskip("onnxoptimizer")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brevitas.export import export_qonnx

        torch.manual_seed(0)
        model, samples = brevitas_network(), torch.randn(16, 3, 16, 16)
        with torch.no_grad():
            model.train()(samples)  # its activation scales and BatchNorm need statistics
            expected = model.eval()(samples).numpy()
        export_qonnx(model, args=samples[:1], export_path=str(tmp_path / "q.onnx"), dynamo=True)
    report = export_file(tmp_path / "q.onnx", samples, tmp_path / "m.onnx")
    assert [layer.operator for layer in report.layers] == ["Conv", *["TernaryConv", "BinaryConv"] * 2, "Gemm"]
    assert report.top1_agreement == 1
    logits = InferenceSession(tmp_path / "m.onnx").run(None, {"input": samples.numpy()})[0]
    # A value on a tie may fall to either side of it in Brevitas and in onnxruntime.
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)
    theirs = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": samples.numpy()})[0]
    np.testing.assert_allclose(logits, theirs, atol=1e-5)
