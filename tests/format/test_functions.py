"""Every function in onnxruntime and in onnx.reference equals plain integer arithmetic exactly."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bitplane.format import names as fmt
from bitplane.format.functions import function

Arrays = dict[str, np.ndarray]


def evaluate(op: str, inputs: Arrays, constants: Arrays, *, reference: bool = True, **attributes: Any) -> np.ndarray:
    """The node's value in onnxruntime, after a check that onnx.reference gives the same bits."""
    node = helper.make_node(op, [*inputs, *constants], ["y"], domain=fmt.DOMAIN, **attributes)
    kind = onnx.TensorProto.UINT8 if op in (fmt.QUANTIZE, fmt.SIGN) else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", kind, list("nchw"))],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", fmt.OPSET_VERSION), helper.make_opsetid(fmt.DOMAIN, fmt.DOMAIN_VERSION)]
    model = helper.make_model(graph, functions=[function(op)], opset_imports=opsets, ir_version=fmt.IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result = np.asarray(session.run(None, inputs)[0])
    if reference:
        other = np.asarray(ReferenceEvaluator(model).run(None, inputs)[0])
        assert result.dtype == other.dtype
        np.testing.assert_array_equal(result, other)
    return result


def convolve(x: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int], fill: int = 0) -> np.ndarray:
    """Integer convolution by plain loops over the kernel: x [N, C, H, W], w [O, C, kh, kw], pads [top, left, bottom, right]."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    _, _, kh, kw = w.shape
    h, v = (padded.shape[2] - kh) // strides[0] + 1, (padded.shape[3] - kw) // strides[1] + 1
    total = np.zeros((len(x), len(w), h, v), np.int64)
    for i in range(kh):
        for j in range(kw):
            window = padded[:, :, i : i + strides[0] * (h - 1) + 1 : strides[0], j : j + strides[1] * (v - 1) + 1 : strides[1]]
            total += np.einsum("nchw,oc->nohw", window, w[:, :, i, j].astype(np.int64))
    return total


@st.composite
def geometry(draw: st.DrawFn) -> dict[str, Any]:
    kh, kw = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pads = [draw(st.integers(0, k - 1)) for k in (kh, kw, kh, kw)]
    return {
        "x": (draw(st.integers(1, 2)), draw(st.integers(1, 19)), draw(st.integers(3, 7)), draw(st.integers(3, 7))),
        "out": draw(st.integers(1, 5)),
        "kernel": (kh, kw),
        "strides": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
        "pads": pads,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def epilogue(rng: np.random.Generator, channels: int) -> Arrays:
    shape = (channels, 1, 1)
    return {"scale": rng.uniform(1e-3, 2, shape).astype(np.float32), "bias": rng.normal(0, 50, shape).astype(np.float32)}


def plane(bits: np.ndarray) -> np.ndarray:
    """Bits [O, C, kh, kw] as a plane, by the words of FORMAT.md: bit j of byte i is weight 8 i + j, in-channel fastest."""
    rows = bits.transpose(0, 2, 3, 1).reshape(len(bits), -1)
    out = np.zeros((len(bits), -(-rows.shape[1] // 8)), np.uint8)
    for k in range(rows.shape[1]):
        out[:, k // 8] |= rows[:, k].astype(np.uint8) << (k % 8)
    return out


@pytest.mark.parametrize("op", [fmt.BINARY_CONV, fmt.TERNARY_CONV, fmt.QUATERNARY_CONV])
@given(g=geometry(), bits=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_low_bit_convolutions_are_integer_convolutions(op: str, g: dict[str, Any], bits: int) -> None:
    rng = np.random.default_rng(g["seed"])
    codes = rng.integers(0, 2**bits, g["x"]).astype(np.uint8)
    shape = (g["out"], g["x"][1], *g["kernel"])
    levels = {fmt.BINARY_CONV: [-1, 1], fmt.TERNARY_CONV: [-1, 0, 1], fmt.QUATERNARY_CONV: [-10, -3, 3, 10]}[op]
    w = rng.choice(levels, shape)
    planes = {
        fmt.BINARY_CONV: {"sign": w < 0},
        fmt.TERNARY_CONV: {"sign": w < 0, "mask": w != 0},
        fmt.QUATERNARY_CONV: {"sign1": w < 0, "sign2": (w == -10) | (w == 3)},
    }[op]
    ends = epilogue(rng, g["out"])
    weight_shape = [shape[0], shape[2], shape[3], shape[1]]
    constants = {**{k: plane(v) for k, v in planes.items()}, **ends}
    y = evaluate(op, {"codes": codes}, constants, weight_shape=weight_shape, strides=g["strides"], pads=g["pads"])
    acc = convolve(codes, w, g["strides"], g["pads"]).astype(np.float32)
    np.testing.assert_array_equal(y, acc * ends["scale"] + ends["bias"])


@given(
    g=geometry(),
    bits=st.sampled_from([1, 2, 4, 8]),
    levels=st.tuples(st.integers(1, 63), st.integers(1, 64)).filter(lambda pair: pair[0] < pair[1]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_four_level_convolutions_and_weights_have_the_levels_of_their_attribute(
    g: dict[str, Any], bits: int, levels: tuple[int, int]
) -> None:
    rng = np.random.default_rng(g["seed"])
    low, high = levels
    codes = rng.integers(0, 2**bits, g["x"]).astype(np.uint8)
    w = rng.choice([-high, -low, low, high], (g["out"], g["x"][1], *g["kernel"]))
    planes = {"sign1": plane(w < 0), "sign2": plane((w == -high) | (w == low))}
    attributes = {"levels": list(levels), "weight_shape": [len(w), *g["kernel"], w.shape[1]]}
    ends = epilogue(rng, g["out"])
    window = {"strides": g["strides"], "pads": g["pads"]}
    y = evaluate(fmt.FOUR_LEVEL_CONV, {"codes": codes}, {**planes, **ends}, **attributes, **window)
    acc = convolve(codes, w, g["strides"], g["pads"]).astype(np.float32)
    np.testing.assert_array_equal(y, acc * ends["scale"] + ends["bias"])
    unit = rng.uniform(0, 2, (g["out"], 1, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        evaluate(fmt.FOUR_LEVEL_WEIGHT, {}, {**planes, "unit": unit}, **attributes), w.astype(np.float32) * unit
    )


@given(g=geometry(), zero_point=st.integers(0, 255))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_pixel_convolution_pads_with_the_zero_point(g: dict[str, Any], zero_point: int) -> None:
    rng = np.random.default_rng(g["seed"])
    pixels = rng.integers(0, 256, g["x"]).astype(np.uint8)
    w = rng.integers(-64, 65, (g["out"], g["x"][1], *g["kernel"])).astype(np.int8)
    ends = epilogue(rng, g["out"])
    constants = {"w": w, "zero_point": np.asarray(zero_point, np.uint8), **ends}
    y = evaluate(fmt.PIXEL_CONV, {"pixels": pixels}, constants, strides=g["strides"], pads=g["pads"])
    acc = convolve(pixels.astype(np.int64) - zero_point, w, g["strides"], g["pads"]).astype(np.float32)
    np.testing.assert_array_equal(y, acc * ends["scale"] + ends["bias"])


@given(bits=st.sampled_from([1, 2, 4, 8]), step=st.floats(2**-10, 8, width=32), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_quantize_rounds_ties_to_even_and_saturates(bits: int, step: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = np.asarray(step, np.float32)
    ties = (np.arange(-6, 600, dtype=np.float32) / 2) * s
    x = np.concatenate([ties, rng.normal(0, 300, 90).astype(np.float32) * s, 1e9 * s[None]]).astype(np.float32)
    x = x.reshape(1, 1, 1, -1)
    y = evaluate(fmt.QUANTIZE, {"x": x}, {"step": s}, top=[2**bits - 1])
    np.testing.assert_array_equal(y, np.clip(np.rint(x / s), 0, 2**bits - 1).astype(np.uint8))


@pytest.mark.parametrize("count", [4, 64], ids=["scalar tail", "vectors"])
def test_quantize_saturates_beyond_the_integers(count: int) -> None:
    x = np.resize(np.array([-np.inf, -3e38, 3e38, np.inf], np.float32), (1, 1, 1, count))
    # onnx.reference goes through int32 and overflows here.
    y = evaluate(fmt.QUANTIZE, {"x": x}, {"step": np.asarray(0.5, np.float32)}, reference=False, top=[15])
    np.testing.assert_array_equal(y.ravel(), np.resize([0, 0, 15, 15], count))


def test_sign_counts_zero_as_positive() -> None:
    x = np.array([-1, -1e-45, -0.0, 0.0, 1e-45, 2], np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(evaluate(fmt.SIGN, {"x": x}, {}).ravel(), [0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(("height", "width", "step", "extra"), [(7, 8, 2, 3), (8, 7, 2, 16), (4, 4, 1, 5), (1, 1, 2, 1)])
def test_pad_shortcut_subsamples_and_appends_zero_channels(height: int, width: int, step: int, extra: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)
    y = evaluate(fmt.PAD_SHORTCUT, {"x": x}, {}, steps=[step, step], pads=[0, 0, 0, 0, 0, extra, 0, 0])
    kept = x[:, :, ::step, ::step]
    np.testing.assert_array_equal(y, np.concatenate([kept, np.zeros((2, extra, *kept.shape[2:]), np.float32)], axis=1))


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(KeyError):
        function("OctonaryConv")
