"""The cost model: every layer on codes has an estimate of either product, and the plan takes the cheaper one."""

from dataclasses import replace

import pytest

from bitplane.format import names as fmt
from bitplane.runtime import InferenceSession
from bitplane.runtime.kernels.shapes import Tile, is_narrow
from bitplane.runtime.kernels.target import CPUS, MACHINE
from bitplane.runtime.layouts import BYTES, FOURS, CodesLayout
from bitplane.runtime.operators.low_bit_conv import LowBitConv
from bitplane.runtime.plan import cost


@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_layer_takes_the_product_that_is_estimated_cheapest(graphs, kind, bits):
    layers = InferenceSession(graphs.resnet(8, kind, bits, 16, blocks=2).model().SerializeToString()).layers()
    low_bit = [layer for layer in layers if layer.weights in ("binary", "ternary", "quaternary") and layer.activation_bits < 32]
    assert low_bit
    for layer in low_bit:
        assert layer.popcount_cost > 0
        assert (layer.dot_cost is None) == (bits == 1)
        assert (layer.look_up_cost is None) == (bits > 2 or not is_narrow(MACHINE))
        costs = {"popcount": layer.popcount_cost, "dot": layer.dot_cost, "look-up": layer.look_up_cost}
        known = {name: cost for name, cost in costs.items() if cost is not None}
        assert layer.kernel.startswith(min(known, key=known.get)), layer


def conv(op, out, channels):
    return LowBitConv("c", "a", "y", (1, 1), (1,) * 4, (out, 3, 3, channels), None, None, fmt.LEVELS[op], ())


def test_popcounts_cost_by_the_plane_and_quaternary_weights_twice():
    layer = conv("BinaryConv", 64, 64)
    one, two = (CodesLayout(64, 8, 8, planes, 1, 64) for planes in (1, 2))
    binary = cost.codes_cost(layer, one, 1, 8, 8)
    assert cost.codes_cost(layer, two, 2, 8, 8) == 2 * binary
    assert cost.codes_cost(conv("QuaternaryConv", 64, 64), one, 1, 8, 8) == 2 * binary
    assert cost.codes_cost(layer, one, 1, 16, 8) == 2 * binary
    assert cost.codes_cost(replace(layer, shape=(128, 3, 3, 64)), one, 1, 8, 8) == 2 * binary
    assert cost.codes_cost(conv("TernaryConv", 64, 64), one, 1, 8, 8) > binary


def test_bytes_cost_the_same_whatever_the_bits():
    in_bytes = CodesLayout(512, 8, 8, 1, 1, 8)
    costs = {cost.codes_cost(conv(op, 64, 64), in_bytes, 8, 8, 8) for op in ("BinaryConv", "TernaryConv", "QuaternaryConv")}
    assert len(costs) == 1


def test_codes_of_many_bits_are_dearer_to_store_in_planes_than_as_bytes():
    planes = [cost.store_cost(CodesLayout(32, 8, 8, bits, 1, 32), 32) for bits in (1, 2, 4, 8)]
    assert planes == [0, 0, 4 * 2 * 64 * 2, 8 * 2 * 64 * 2]
    assert cost.store_cost(CodesLayout(8 * 32, 8, 8, 1, 1, 8, BYTES), 32) == 2 * 64 * 2


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("kind", "least"), [("BinaryConv", "popcount"), ("TernaryConv", "popcount"), ("QuaternaryConv", "dot")]
)
def test_wide_layers_of_4_bits_take_what_was_measured_to_be_faster_with_vpopcntdq(kind, least, bits):
    cpu, layer = CPUS["avx512-vpopcntdq"], conv(kind, 256, 256)
    popcount = cost.codes_cost(layer, CodesLayout(256, 14, 14, bits, 1, 64), bits, 14, 14, cpu)
    dot = cost.codes_cost(layer, CodesLayout(8 * 256, 14, 14, 1, 1, 8, BYTES), bits, 14, 14, cpu)
    assert (popcount < dot) == (least == "popcount" and bits == 4)


@pytest.mark.parametrize("kind", ["BinaryConv", "TernaryConv", "QuaternaryConv"])
def test_look_ups_cost_less_than_popcounts_of_two_planes_and_up_to_twice_for_two_weight_planes(kind):
    fours, cpu = CodesLayout(2 * 64, 8, 8, 1, 1, 8, FOURS), CPUS["avx2"]
    costs = {op: cost.codes_cost(conv(op, 64, 64), fours, 2, 8, 8, cpu) for op in (kind, "BinaryConv")}
    popcount = cost.codes_cost(conv(kind, 64, 64), CodesLayout(64, 8, 8, 2, 1, 64), 2, 8, 8, cpu)
    assert costs[kind] < popcount
    assert costs["BinaryConv"] <= costs[kind] <= 2 * costs["BinaryConv"]


def test_a_tile_covers_a_row_with_the_least_work(monkeypatch):
    tiles = (Tile("binary", 64, 8, 4, 2), Tile("binary", 64, 8, 1, 2))
    monkeypatch.setattr(cost, "tiles_for", lambda cpu: tiles)
    for width in range(1, 20):
        index, work = cost.cheapest_tile("binary", 64, 16, width, 0)
        works = [-(-width // t.pixels) * cost.word_cost(t) if t.pixels <= width else float("inf") for t in tiles]
        assert (index, work) == (works.index(min(works)), min(works))
