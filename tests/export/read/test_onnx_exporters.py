"""What exporters write is read as what onnxruntime makes of it: old operator sets, computed shapes, fixed batch sizes.

Every case is from a public bug report. The oracle is onnxruntime on the source.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitplane.export import ExportError, Quantization, to_onnx
from bitplane.runtime import InferenceSession

NODE = helper.make_node
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


W, W1, FC, BIAS = normal(8, 3, 3, 3), normal(8, 8, 1, 1), normal(5, 128), normal(5)
CONV = NODE("Conv", ["x", "w"], ["c"], pads=[1] * 4, name="c")
HALF = NODE("Conv", ["x", "w"], ["c"], pads=[1] * 4, strides=[2, 2], name="c")
BN = NODE("BatchNormalization", ["c", "g", "b", "m", "v"], ["bn"], name="bn")
BN_CONSTANTS = {"g": 1 + normal(8), "b": normal(8), "m": normal(8), "v": 1 + abs(normal(8))}
TWO, THREE, SIX, ZERO = (np.float32(v) for v in (-2, 3, 6, 0))


def pooled(value: str) -> list[onnx.NodeProto]:
    return [NODE("GlobalAveragePool", [value], ["gp"], name="gp"), NODE("Flatten", ["gp"], ["y"], name="f")]


def model(nodes, constants, *, opset: int = 18, shape=("N", 3, 8, 8), values=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w": W, **constants}.items()],
        value_info=list(values),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5 if opset < 11 else 8)


def view() -> onnx.ModelProto:
    """x.view(x.size(0), -1), its sizes computed from Shape."""
    nodes = [
        HALF,
        NODE("Shape", ["c"], ["sh"]),
        NODE("Gather", ["sh", "zero"], ["n"], axis=0),
        NODE("Unsqueeze", ["n", "axes"], ["n1"]),
        NODE("Concat", ["n1", "minus"], ["target"], axis=0),
        NODE("Reshape", ["c", "target"], ["f"]),
        NODE("Gemm", ["f", "fw", "fb"], ["y"], name="fc", transB=1),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "minus": np.array([-1]), "fw": FC, "fb": BIAS}
    return model(nodes, constants)


def shuffle(batch: int) -> onnx.ModelProto:
    nodes = [
        CONV,
        NODE("Reshape", ["c", "t1"], ["a"]),
        NODE("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
        NODE("Reshape", ["b", "t2"], ["d"]),
        NODE("Conv", ["d", "w1"], ["e"], name="e"),
        *pooled("e"),
    ]
    constants = {"w1": W1, "t1": np.array([batch, 2, 4, 8, 8]), "t2": np.array([batch, 8, 8, 8])}
    return model(nodes, constants, shape=(batch, 3, 8, 8))


CASES = {
    "hard swish spelled out behind a BatchNorm": lambda: model(
        [
            CONV,
            BN,
            NODE("Add", ["bn", "three"], ["a"]),
            NODE("Clip", ["a", "zero", "six"], ["k"]),
            NODE("Mul", ["bn", "k"], ["mu"]),
            NODE("Div", ["mu", "six"], ["hs"]),
            *pooled("hs"),
        ],
        {**BN_CONSTANTS, "three": THREE, "zero": ZERO, "six": SIX},
    ),
    "a BatchNorm read by an affine map and by another": lambda: model(
        [
            CONV,
            BN,
            NODE("Mul", ["bn", "two"], ["k"]),
            NODE("Relu", ["k"], ["r1"]),
            NODE("Relu", ["bn"], ["r2"]),
            NODE("Add", ["r1", "r2"], ["s"]),
            *pooled("s"),
        ],
        {**BN_CONSTANTS, "two": TWO},
    ),
    "the input's normalization read twice": lambda: model(
        [
            NODE("Sub", ["x", "three"], ["s"]),
            NODE("Div", ["s", "six"], ["d"]),
            NODE("Conv", ["d", "w"], ["c1"], pads=[1] * 4, name="c1"),
            NODE("Conv", ["s", "w"], ["c2"], pads=[1] * 4, name="c2"),
            NODE("Add", ["c1", "c2"], ["a"]),
            *pooled("a"),
        ],
        {"three": THREE, "six": SIX},
    ),
    "one subsampling with two paddings": lambda: model(
        [
            CONV,
            NODE("Slice", ["c", "starts", "ends", "axes", "steps"], ["s"]),
            NODE("Pad", ["s", "p1"], ["a"]),
            NODE("Pad", ["s", "p2"], ["b"]),
            NODE("Add", ["a", "b"], ["d"]),
            *pooled("d"),
        ],
        {
            "starts": np.array([0, 0]),
            "ends": np.array([99, 99]),
            "axes": np.array([2, 3]),
            "steps": np.array([2, 2]),
            "p1": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
            "p2": np.array([0, 4, 0, 0, 0, 0, 0, 0]),
        },
    ),
    "Clip of opset 10": lambda: model([CONV, NODE("Clip", ["c"], ["k"], min=0.0, max=6.0), *pooled("k")], {}, opset=10),
    "ReduceMean of opset 13, one axis after the other": lambda: model(
        [
            CONV,
            NODE("ReduceMean", ["c"], ["a"], axes=[3]),
            NODE("ReduceMean", ["a"], ["b"], axes=[2]),
            NODE("Flatten", ["b"], ["y"]),
        ],
        {},
        opset=13,
    ),
    "Squeeze and Softmax of opset 11": lambda: model(
        [
            CONV,
            NODE("GlobalAveragePool", ["c"], ["p"]),
            NODE("Squeeze", ["p"], ["q"], axes=[2, 3]),
            NODE("Softmax", ["q"], ["y"]),
        ],
        {},
        opset=11,
    ),
    "Pad and Slice of opset 9": lambda: model(
        [
            NODE("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
            NODE("Conv", ["p", "w"], ["c"], name="c"),
            NODE("Slice", ["c"], ["s"], axes=[2], starts=[1], ends=[7]),
            *pooled("s"),
        ],
        {},
        opset=9,
    ),
    "a newer opset": lambda: model([CONV, NODE("Selu", ["c"], ["g"]), *pooled("g")], {}, opset=22),
    "view by computed sizes": view,
    "Gemm with a bias of one row": lambda: model(
        [HALF, NODE("Flatten", ["c"], ["f"]), NODE("Gemm", ["f", "fw", "fb"], ["y"], name="fc", transB=1)],
        {"fw": FC, "fb": BIAS[None]},
    ),
    "AveragePool as large as its input that keeps the size": lambda: model(
        [CONV, NODE("AveragePool", ["c"], ["y"], kernel_shape=[8, 8], strides=[1, 1], auto_pad="SAME_UPPER")], {}
    ),
    **{
        f"convolution and pool of auto_pad {kind}": lambda kind=kind: model(
            [
                NODE("Conv", ["x", "w"], ["c"], strides=[2, 2], auto_pad=kind, name="c"),
                NODE("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[1, 1], auto_pad=kind),
                *pooled("p"),
            ],
            {},
        )
        for kind in ("SAME_UPPER", "SAME_LOWER", "VALID")
    },
    "a batch of one written into its shapes": lambda: shuffle(1),
    "a batch of five written into its shapes": lambda: shuffle(5),
    "BatchNorm over flattened pixels": lambda: model(
        [
            HALF,
            NODE("Flatten", ["c"], ["f"]),
            NODE("BatchNormalization", ["f", "g", "b", "m", "v"], ["bn"]),
            NODE("Gemm", ["bn", "fw", "fb"], ["y"], name="fc", transB=1),
        ],
        {"g": 1 + normal(128), "b": normal(128), "m": normal(128), "v": 1 + abs(normal(128)), "fw": FC, "fb": BIAS},
    ),
    "float16 inside": lambda: model(
        [
            NODE("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
            NODE("Conv", ["xh", "wh"], ["c"], pads=[1] * 4, name="c"),
            NODE("GlobalAveragePool", ["c"], ["gp"]),
            NODE("Flatten", ["gp"], ["f"]),
            NODE("Cast", ["f"], ["y"], to=TensorProto.FLOAT),
        ],
        {"wh": W.astype(np.float16)},
    ),
    "stale shapes of inner values, an open size, a batch of -1": lambda: model(
        [CONV, NODE("HardSigmoid", ["c"], ["s"]), *pooled("s")],
        {},
        opset=11,
        shape=(-1, 3, "h", "w"),
        values=[helper.make_tensor_value_info("c", TensorProto.FLOAT, [-1, 8, "p", "q"])],
    ),
    "a layer called logits that is not the last": lambda: model(
        [CONV, NODE("Conv", ["c", "logits.weight"], ["d"], name="d"), *pooled("d")], {"logits.weight": W1}
    ),
    "values that are no floats": lambda: model(
        [
            CONV,
            NODE("Greater", ["c", "zero"], ["g"]),
            NODE("Not", ["g"], ["n"]),
            NODE("Where", ["n", "c", "three"], ["s"]),
            *pooled("s"),
        ],
        {"zero": ZERO, "three": THREE},
    ),
    "Expand by a computed shape": lambda: model(
        [CONV, NODE("GlobalAveragePool", ["c"], ["p"]), NODE("Shape", ["c"], ["sh"]), NODE("Expand", ["p", "sh"], ["y"])], {}
    ),
    "Resize by scales": lambda: model(
        [CONV, NODE("Resize", ["c", "", "scales"], ["d"]), *pooled("d")], {"scales": np.array([1, 1, 2, 2], np.float32)}
    ),
    "a map of features as the result": lambda: model([CONV, NODE("Relu", ["c"], ["y"])], {}),
    "an affine map of a convolution that is read elsewhere": lambda: model(
        [CONV, NODE("Mul", ["c", "two"], ["m"]), NODE("Relu", ["c"], ["r"]), NODE("Add", ["m", "r"], ["y"])], {"two": TWO}
    ),
    "Split": lambda: model(
        [CONV, NODE("Split", ["c", "sizes"], ["a", "b"], axis=1), NODE("Concat", ["b", "a"], ["d"], axis=1), *pooled("d")],
        {"sizes": np.array([3, 5])},
    ),
    "one value flattened and not": lambda: model(
        [
            CONV,
            NODE("GlobalAveragePool", ["c"], ["p"]),
            NODE("Flatten", ["p"], ["f"]),
            NODE("Sigmoid", ["p"], ["s"]),
            NODE("Flatten", ["s"], ["s1"]),
            NODE("Mul", ["f", "s1"], ["y"]),
        ],
        {},
    ),
}


def run(source: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(source.SerializeToString())
    (own,) = session.get_inputs()
    batch = own.shape[0] if isinstance(own.shape[0], int) and own.shape[0] > 0 else len(x)
    whole = len(x) - len(x) % batch
    return np.concatenate([session.run(None, {"x": x[i : i + batch]})[0] for i in range(0, whole, batch)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_the_source_does(tmp_path, case: str) -> None:
    source = CASES[case]()
    x = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    to_onnx(source, x, tmp_path / "m.onnx")
    expected = run(source, x)
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x})[0]
    flat = expected.reshape(len(expected), -1)
    atol = 2e-3 if case == "float16 inside" else 1e-5
    np.testing.assert_allclose(found.reshape(len(found), -1)[: len(flat)], flat, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("weights", ["binary", "ternary", "quaternary", "int8"])
def test_a_kernel_smaller_than_its_padding_runs_in_the_runtime(tmp_path, weights) -> None:
    nodes = [
        CONV,
        NODE("Relu", ["c"], ["r"]),
        NODE("Conv", ["r", "w1"], ["d"], pads=[1, 2, 0, 1], strides=[2, 1], name="d"),
        NODE("Relu", ["d"], ["e"]),
        *pooled("e"),
    ]
    x = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    report = to_onnx(model(nodes, {"w1": W1}), x, tmp_path / "m.onnx", quantization=Quantization(weights=weights))
    assert report.unrunnable == ""
    found = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x})[0]
    theirs = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x})[0]
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-5)


def test_an_operator_that_fails_while_it_is_evaluated_is_a_refusal_with_its_cause(tmp_path) -> None:
    nodes = [CONV, NODE("MatMul", ["c", "c"], ["mm"], name="mm"), NODE("TopK", ["mm", "k"], ["y", "i"], name="top")]
    with pytest.raises(ExportError, match=r"node 'top' \(TopK\) is not supported"):
        to_onnx(model(nodes, {"k": np.array([2])}), np.zeros((2, 3, 8, 8), np.float32), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_in_the_middle_of_a_shape_is_refused(tmp_path) -> None:
    nodes = [
        CONV,
        NODE("Shape", ["c"], ["sh"]),
        NODE("Slice", ["sh", "zero", "one"], ["n"]),
        NODE("Concat", ["four", "n", "minus"], ["target"], axis=0),
        NODE("Reshape", ["c", "target"], ["y"], name="odd"),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "four": np.array([4]), "minus": np.array([-1])}
    with pytest.raises(ExportError, match=r"'odd' .*computes its shape .* with the batch size"):
        to_onnx(model(nodes, constants), np.zeros((2, 3, 8, 8), np.float32), tmp_path / "m.onnx")
