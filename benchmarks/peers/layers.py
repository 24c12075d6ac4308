"""One 3x3 convolution, stride 1, as many channels out as in, in several engines: speed alone.

A layer is "LEVELS/BITS CxS": C channels, S x S pixels. What an engine includes differs and its `note` says so: bitplane and
OpenVINO binarize and pack (the epilogue), bnn-lab's products and MatMulNBits are matrix products of the same size on operands
packed beforehand. Values are checked against numpy where an engine gives any.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from bitplane.benchmarks.peers import Loaded, Purpose

LAYER = re.compile(r"(\w+)/(\d) (\d+)x(\d+)")


def load(file: str, threads: int, purpose: Purpose, variant: str) -> Loaded:
    """Make a layer.

    Args:
        file: the layer's name.
        threads: threads.
        purpose: not used.
        variant: engine.
    """
    found = LAYER.fullmatch(file)
    assert found is not None
    levels, bits, channels, size = found[1], *(int(v) for v in found.groups()[1:])
    makers = {
        "bitplane": _bitplane,
        "limit": _limit,
        "openvino": _openvino,
        "bnn_lab": _bnn_lab,
        "matmulnbits": _matmulnbits,
    }
    return makers[variant](levels, bits, channels, size, threads)


def _work(channels: int, size: int) -> int:
    return channels * channels * 9 * size * size


def _bitplane(levels: Any, bits: int, channels: int, size: int, threads: int) -> Loaded:
    from importlib.metadata import version

    from bitplane.runtime.inspect.single_layer import make_layer

    layer = make_layer(levels, channels, size, bits=bits, out_bits=min(bits, 2))
    note = "with its epilogue: threshold and packing"
    return Loaded(layer, version("bitplane"), {"kernel": layer.kernel}, note, _work(channels, size), layer.product)


def _limit(levels: str, bits: int, channels: int, size: int, threads: int) -> Loaded:
    from bitplane.runtime.inspect.register_loop import register_loop

    planes = bits * (2 if levels == "quaternary" else 1)
    kind, lane, rounds = "ternary" if levels == "ternary" else "binary", min(64, channels), 20_000
    work = register_loop(kind, lane, rounds) // planes
    return Loaded(lambda: register_loop(kind, lane, rounds), "", {}, "the same instructions on registers alone", work)


def _operands(levels: str, channels: int, size: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Weights [C, C, 3, 3] and activations [1, C, S, S], both of {-1, 1}, weights also 0 if ternary."""
    rng = np.random.default_rng(0)
    weight = rng.choice(np.array([-1, 1] if levels == "binary" else [-1, 0, 1], np.int8), (channels, channels, 3, 3))
    return weight, rng.choice(np.array([-1, 1], np.int8), (1, channels, size, size))


def _convolved(weight: npt.NDArray[np.int8], x: npt.NDArray[np.int8], pad: int) -> npt.NDArray[np.int64]:
    """The convolution in integers, [C, S, S]; the padding has the value `pad`."""
    padded = np.pad(x[0].astype(np.int64), ((0, 0), (1, 1), (1, 1)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight.astype(np.int64), optimize=True)


def _openvino(levels: str, bits: int, channels: int, size: int, threads: int) -> Loaded:
    import openvino as ov
    from openvino import opset8 as ops

    weight, x = _operands(levels, channels, size)
    # u1 weights, a set bit for 1; activations made of {-1, 1} by the operator's own binarization in FakeQuantize.
    source = ops.parameter([1, channels, size, size], np.float32)
    low, high = (ops.constant(np.full((1, 1, 1, 1), v, np.float32)) for v in (-1.0, 1.0))
    zero = ops.constant(np.zeros((1, channels, 1, 1), np.float32))
    binary = ops.fake_quantize(source, zero, zero, low, high, 2)
    planes = ov.Tensor(np.packbits((weight > 0).reshape(-1)), ov.Shape(list(weight.shape)), ov.Type.u1)
    filters, ones = ov.op.Constant(planes), [1, 1]
    product = ops.binary_convolution(binary, filters, ones, ones, ones, ones, "xnor-popcount", 0.0, "explicit")
    result = ops.fake_quantize(product, zero, zero, low, high, 2)
    model = ov.Model([ops.result(result)], [source])  # pyright: ignore[reportGeneralTypeIssues]
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    feed = [x.astype(np.float32)]
    found = request.infer(feed).to_tuple()[0][0]
    # The specification's padding value is 0, of pixels {0, 1}: -1.
    wrong = min(int((found != np.where(_convolved(weight, x, p) > 0, 1, -1)).sum()) for p in (-1, 0, 1))
    note = "with binarization" + (f"; VALUES WRONG: {wrong} of {found.size} differ" if wrong else "")
    return Loaded(
        lambda: request.infer(feed, share_inputs=True), ov.__version__, {"threads": str(threads)}, note, _work(channels, size)
    )


def _bnn_lab(levels: str, bits: int, channels: int, size: int, threads: int) -> Loaded:
    from importlib.metadata import version

    from bnn.kernels import packed  # pyright: ignore[reportMissingImports]
    from bnn.kernels.ternary_gemm import ternary_bitplane_gemm_native  # pyright: ignore[reportMissingImports]
    from bnn.kernels.ternary_pack import (  # pyright: ignore[reportMissingImports]
        pack_ternary_bitplanes,
        precompute_bitplane_pops,
    )

    if not packed.native_kernel_available():
        raise ValueError("bnn-lab's native kernel does not load here")
    packed.set_num_threads(threads)
    weight, _ = _operands(levels, channels, size)
    rows = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), (size * size, 9 * channels))
    flat = weight.reshape(channels, -1)
    xp, n = packed.pack_binary_pm1(rows, axis=1)
    if levels == "binary":
        wp, _ = packed.pack_binary_pm1(flat, axis=1)

        def run() -> Any:
            return packed.binary_gemm_native_prepacked(xp, wp, n)
    else:
        plus, minus, _ = pack_ternary_bitplanes(flat)
        pops = precompute_bitplane_pops(plus, minus)

        def run() -> Any:
            return ternary_bitplane_gemm_native(xp, plus, minus, 1.0, *pops)

    wrong = int((np.asarray(run()) != rows.astype(np.int64) @ flat.astype(np.int64).T).sum())
    note = "the product alone" + (f"; VALUES WRONG: {wrong} differ" if wrong else "")
    kernel = {"kernel": str(packed.kernel_name()), "threads": str(threads)}
    return Loaded(run, version("bnn-lab"), kernel, note, _work(channels, size))


def _matmulnbits(levels: str, bits: int, channels: int, size: int, threads: int) -> Loaded:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    from bitplane.benchmarks.peers.onnxruntime import session

    rng = np.random.default_rng(0)
    k, block = 9 * channels, 64
    codes = rng.integers(0, 4 if levels == "quaternary" else 3, (channels, k)).astype(np.uint8)
    values = (codes.astype(np.float32) - 1.5) / 1.5 if levels == "quaternary" else codes.astype(np.float32) - 1
    scale = 1 / 1.5 if levels == "quaternary" else 1.0
    zero = 1.5 if levels == "quaternary" else 1.0
    fours = codes.reshape(channels, k // block, block // 4, 4)
    packed = (fours << np.array([0, 2, 4, 6], np.uint8)).sum(-1).astype(np.uint8)
    blocks = np.full((channels, k // block), 1, np.float32)
    constants = {"w": packed, "scales": blocks * np.float32(scale), "zero": blocks * np.float32(zero)}
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=k, N=channels, bits=2, block_size=block
    )
    graph = helper.make_graph(
        [node],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size * size, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size * size, channels])],
        [onnx.numpy_helper.from_array(v, name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    opened = session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), threads)
    x = rng.normal(0, 1, (size * size, k)).astype(np.float32)
    difference = float(np.abs(np.asarray(opened.run(None, {"x": x})[0]) - x @ values.T).max())
    note = "the product alone, float32 activations"
    note += f"; VALUES WRONG by up to {difference:.2g}" if difference > 1e-2 else ""
    return Loaded(
        lambda: opened.run(None, {"x": x}), onnxruntime.__version__, {"block_size": "64"}, note, _work(channels, size)
    )
