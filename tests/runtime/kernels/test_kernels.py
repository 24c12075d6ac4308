"""Kernels against the NumPy reference, and the pieces that benchmarks call."""

import numpy as np
import pytest

from bitplane.format.levels import four_levels
from bitplane.runtime import InferenceSession
from bitplane.runtime.inspect.reference import evaluate
from bitplane.runtime.inspect.register_loop import ACCUMULATORS, register_loop
from bitplane.runtime.inspect.single_layer import make_layer
from bitplane.runtime.kernels.shapes import TILES
from bitplane.runtime.model.parse import parse
from bitplane.runtime.operators.quantize import Quantize
from bitplane.runtime.plan.cost import cheapest_tile


@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary", "FourLevel"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_value_equals_the_reference(graphs, kind, bits):
    builder = graphs.resnet(9, kind, bits, 14, (16, 48), 1, "B", 7, pool=True)
    data = builder.model().SerializeToString()
    image = builder.images(1)
    expected = evaluate(parse(data), image[0])
    found = InferenceSession(data).trace({"input": image}, merge=False)
    for name, value in expected.items():
        if name == "logits":
            np.testing.assert_allclose(found[name][0], value, atol=1e-5, rtol=1e-5)
        elif name != "input":
            np.testing.assert_array_equal(found[name][0], value, strict=True)


@pytest.mark.parametrize("step", [1e-38, 0.1, 0.3, 1.0, 1.7, 3e38])
@pytest.mark.parametrize("bits", [1, 2])
def test_float_thresholds_are_the_smallest_values_of_their_codes(step, bits):
    levels = Quantize("q", "x", "y", bits, float(np.float32(step))).thresholds()
    for code, level in enumerate(levels, 1):
        below = np.nextafter(level, np.float32(0))
        with np.errstate(over="ignore"):
            assert np.rint(level / np.float32(step)) >= code
            assert np.rint(below / np.float32(step)) < code


@pytest.mark.parametrize("kind", ["binary", "ternary"])
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("rows", [16, 32, 48, 64, 1024])
def test_a_tile_exists_for_every_width(kind, bits, rows):
    for width in range(1, 60):
        for taps in (0, 3):
            tile = TILES[cheapest_tile(kind, bits, rows, width, taps)[0]]
            assert tile.pixels <= width
            assert rows % tile.group == 0


@pytest.mark.parametrize("weights", ["binary", "ternary", "quaternary", four_levels(1, 3)])
@pytest.mark.parametrize("channels", [16, 64])
def test_a_layer_runs_alone(weights, channels):
    layer = make_layer(weights, channels, 8, bits=2, out_bits=2)
    layer()
    name = weights if isinstance(weights, str) else weights.name
    assert layer.products == channels * channels * 9 * 64 * 2 * (1 if name in ("binary", "ternary") else 2)
    assert layer.kernel.startswith((f"popcount {name} x2b", f"look-up {name} x2b", "dot u8s8"))  # by the machine


@pytest.mark.parametrize("kind", ["binary", "ternary"])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_register_loop_counts_its_products(kind, bits):
    assert register_loop(kind, bits, 1000) == 1000 * ACCUMULATORS * 512
