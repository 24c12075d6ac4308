"""A QONNX source is read as what its quantizers mean, and a wrong reading of it is refused; the oracle is onnxruntime."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitplane.export import ExportError, to_onnx
from bitplane.export.nodes.conv import Conv
from bitplane.export.qonnx import DOMAIN, runnable
from bitplane.export.read import source as source_module

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


CONSTANTS = {
    "zero": np.float32(0),
    "b8": np.float32(8),
    "b4": np.float32(4),
    "b2": np.float32(2),
    "b16": np.float32(16),
    "b32": np.float32(32),
    "sw": np.float32(0.01),
    "s2": np.full((8, 1, 1, 1), 0.2, np.float32),
    "sa": np.float32(0.1),
    "sb": np.float32(0.001),
    "w1": normal(8, 3, 3, 3),
    "w2": np.clip(normal(8, 8, 3, 3), -0.25, 0.25),  # of its 2 bits -1, 0 and 1 are left
    "bias": normal(8),
    "two": np.full((1, 8, 1, 1), -2, np.float32),
    "g": 1 + normal(8),
    "b": normal(8),
    "m": normal(8),
    "v": 1 + abs(normal(8)),
}


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def quant(inputs: str, output: str, signed: int) -> onnx.NodeProto:
    return node("Quant", inputs, output, domain=DOMAIN, narrow=0, rounding_mode="ROUND", signed=signed)


def model(nodes, opset: int = 13) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, node("GlobalAveragePool", "end", "gp"), node("Flatten", "gp", "y")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in CONSTANTS.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


STEM = [quant("w1 sw zero b8", "q1", 1), node("Conv", "x q1", "c", pads=[1] * 4), node("Relu", "c", "r")]
BODY = [quant("r sa zero b4", "qa", 0), quant("w2 s2 zero b2", "q2", 1)]
CASES = {
    **{f"opset {o}": (o, [*STEM, *BODY, node("Conv", "qa q2", "end", pads=[1] * 4)]) for o in (9, 10, 11, 13)},
    "an operator that is kept, behind a Quant": (
        13,
        [
            *STEM,
            quant("r sa zero b4", "qa", 0),
            quant("w2 sw zero b8", "q2", 1),
            node("Conv", "qa q2", "d"),
            node("Sigmoid", "d", "end"),
        ],
    ),
    "biases of 16 and 32 bits": (
        13,
        [
            quant("w1 sw zero b8", "q1", 1),
            quant("bias sb zero b16", "qb", 1),
            node("Conv", "x q1 qb", "c", pads=[1] * 4),
            node("Relu", "c", "r"),
            *BODY,
            quant("bias sb zero b32", "qc", 1),
            node("Conv", "qa q2 qc", "end", pads=[1] * 4),
        ],
    ),
    "a BatchNorm read twice in front of a Quant": (
        13,
        [
            node("Conv", "x w1", "c", pads=[1] * 4),
            node("BatchNormalization", "c g b m v", "bn"),
            node("Mul", "bn two", "k"),
            node("Relu", "k", "r1"),
            node("Relu", "bn", "r2"),
            node("Add", "r1 r2", "r"),
            *BODY,
            node("Conv", "qa q2", "end", pads=[1] * 4),
        ],
    ),
    "no quantized weight at all": (13, [node("Conv", "x w1", "c"), node("Relu", "c", "r"), quant("r sa zero b4", "end", 0)]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_the_source_does(tmp_path, case: str) -> None:
    opset, nodes = CASES[case]
    source = model(nodes, opset)
    report = to_onnx(source, X, tmp_path / "m.onnx")
    expected = onnxruntime.InferenceSession(runnable(source).SerializeToString()).run(None, {"x": X})[0]
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": X})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.ptp(expected))
    if case.startswith(("opset", "biases")):
        assert [layer.operator for layer in report.layers][1:] == ["TernaryConv"]
        assert report.unrunnable == ""


def test_quant_of_an_old_opset_means_what_it_does_in_a_new_one() -> None:
    nodes = CASES["opset 9"][1]
    found, expected = (
        onnxruntime.InferenceSession(runnable(model(nodes, o)).SerializeToString()).run(None, {"x": X})[0] for o in (9, 13)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("layer", ["c", "end"], ids=["in front of a quantizer", "behind the last quantizer"])
@pytest.mark.parametrize("what", ["scale", "bias"])
def test_a_wrong_reading_of_a_source_with_quantizers_is_refused(tmp_path, monkeypatch, layer: str, what: str) -> None:
    fold = source_module.folded

    def wrong(network):
        def changed(conv: Conv) -> Conv:
            w, bias = conv.weight, conv.bias
            if what == "scale":
                return conv.scaled(np.full(len(bias), 1.2), 0 * bias)
            return replace(conv, weight=w, bias=bias + 0.3)

        right = fold(network)
        return right.with_nodes([changed(n) if isinstance(n, Conv) and n.name == layer else n for n in right.nodes])

    monkeypatch.setattr(source_module, "folded", wrong)
    nodes = CASES["opset 13"][1]
    with pytest.raises(ExportError, match="reading differs from the source"):
        to_onnx(model(nodes), X, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
