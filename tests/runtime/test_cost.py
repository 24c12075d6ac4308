"""The cost model: every layer on codes has an estimate of either product, and the plan takes the cheaper one."""

from dataclasses import replace

import pytest

from bitplane.runtime import InferenceSession, cost
from bitplane.runtime.arena import CodesLayout
from bitplane.runtime.kernels.shapes import Tile
from bitplane.runtime.model import Conv


@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_layer_takes_the_product_that_is_estimated_cheaper(graphs, kind, bits):
    layers = InferenceSession(graphs.resnet(8, kind, bits, 16, blocks=2).model().SerializeToString()).layers()
    low_bit = [layer for layer in layers if layer.weights in ("binary", "ternary", "quaternary") and layer.activation_bits < 32]
    assert low_bit
    for layer in low_bit:
        assert layer.popcount_cost > 0
        assert (layer.dot_cost is None) == (bits == 1)
        dot = layer.dot_cost is not None and layer.dot_cost < layer.popcount_cost
        assert layer.kernel.startswith("dot u8s8" if dot else "popcount"), layer


def conv(op, out, channels):
    planes = {"BinaryConv": 1}.get(op, 2)
    return Conv("c", op, "a", "y", (out, 3, 3, channels), (1, 1), (1,) * 4, None, None, (None,) * planes)


def test_popcounts_cost_by_the_plane_and_quaternary_weights_twice():
    layer = conv("BinaryConv", 64, 64)
    one, two = (CodesLayout(64, 8, 8, planes, 1, 64) for planes in (1, 2))
    binary = cost.codes_cost(layer, one, 8, 8)
    assert cost.codes_cost(layer, two, 8, 8) == 2 * binary
    assert cost.codes_cost(conv("QuaternaryConv", 64, 64), one, 8, 8) == 2 * binary
    assert cost.codes_cost(layer, one, 16, 8) == 2 * binary
    assert cost.codes_cost(replace(layer, weight_shape=(128, 3, 3, 64)), one, 8, 8) == 2 * binary
    assert cost.codes_cost(conv("TernaryConv", 64, 64), one, 8, 8) > binary


def test_bytes_cost_the_same_whatever_the_bits():
    in_bytes = CodesLayout(512, 8, 8, 1, 1, 8)
    costs = {cost.codes_cost(conv(op, 64, 64), in_bytes, 8, 8) for op in ("BinaryConv", "TernaryConv", "QuaternaryConv")}
    assert len(costs) == 1


@pytest.mark.parametrize(
    ("popcount", "dot", "bits", "expected"), [(2, 1, 2, True), (1, 2, 8, False), (2, 1, 1, False), (1, 1, 4, False)]
)
def test_the_cheaper_product_is_preferred_and_one_bit_is_never_bytes(popcount, dot, bits, expected):
    assert cost.prefer_dot(popcount, dot, bits) is expected


def test_a_tile_covers_a_row_with_the_least_work(monkeypatch):
    tiles = (Tile("binary", 64, 8, 4, 2), Tile("binary", 64, 8, 1, 2))
    monkeypatch.setattr(cost, "tiles_for", lambda cpu: tiles)
    for width in range(1, 20):
        index, work = cost.cheapest_tile("binary", 64, 16, width, 0)
        works = [-(-width // t.pixels) * cost.word_cost(t) if t.pixels <= width else float("inf") for t in tiles]
        assert (index, work) == (works.index(min(works)), min(works))
