"""One layer over all shapes: features and codes equal onnxruntime's for every word width, kernel, stride and width."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper as nh

from bitplane.runtime.kernels.shapes import is_narrow
from bitplane.runtime.kernels.target import MACHINE
from bitplane.runtime.layouts import BYTES, FOURS
from bitplane.runtime.plan import choose

KINDS = ["Binary", "Ternary", "Quaternary"]
CHANNELS = [1, 15, 16, 17, 31, 32, 33, 64, 65, 3 * 64 + 5]
EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def layers(draw):
    kernel = draw(st.tuples(*[st.sampled_from([1, 3, 7])] * 2))
    pads = [draw(st.integers(0, min(k - 1, 3))) for k in (*kernel, *kernel)]
    size = [draw(st.integers(max(1, k - pads[i] - pads[i + 2]), 19)) for i, k in enumerate(kernel)]
    return {
        "kind": draw(st.sampled_from([*KINDS, "FourLevel"])),
        "levels": draw(st.tuples(st.integers(1, 63), st.integers(1, 64)).filter(lambda pair: pair[0] < pair[1])),
        "bits": draw(st.sampled_from([1, 2, 4, 8])),
        "channels": draw(st.sampled_from(CHANNELS)),
        "out": draw(st.sampled_from(CHANNELS)),
        "kernel": kernel,
        "pads": pads,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "size": size,
        "unit": draw(st.booleans()),
        "after": draw(
            st.sampled_from(["none", "relu", "prelu", "residual", "residual relu", "residual prelu", "clip", "residual clip"])
        ),
        "channel_sign": draw(st.booleans()),
        "next_bits": draw(st.sampled_from([1, 2, 4, 8])),
        "keep": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


@pytest.fixture(scope="module")
def build(graphs):
    def layer_graph(p):
        b = graphs.Builder(p["seed"], 3, *p["size"])
        b.levels = p.get("levels", (1, 64))
        x = b.quantize(b.pixel_conv(p["channels"], 1), p["bits"], sign=p["seed"] % 2 == 0)
        y = b.conv(x, p["kind"], p["out"], p["kernel"], p["strides"], p["pads"], p["unit"])
        if "residual" in p["after"]:
            other = b.conv(x, "Binary", p["out"], p["kernel"], p["strides"], p["pads"])
            y = b.op("Add", y, other) if p["keep"] else b.op("Add", other, y)
        if p["after"].endswith("prelu"):
            y = b.prelu(y)
        elif p["after"].endswith("clip"):
            y = b.clip(y)
        elif p["after"].endswith("relu"):
            y = b.op("Relu", y)
        by_channel = p.get("channel_sign") and p["next_bits"] == 1
        a = b.channel_sign(y) if by_channel else b.quantize(y, p["next_bits"], sign=not p["unit"])
        z = b.conv(a, "Ternary", 16, (1, 1))
        if p["keep"]:
            z = b.op("Add", z, b.conv(b.quantize(y, 2), "Binary", 16, (1, 1)))
        b.classifier(z)
        return b

    return layer_graph


@EXAMPLES
@given(layer=layers())
def test_layer_equals_onnxruntime(build, check, layer):
    check(build(layer), count=1)


@EXAMPLES
@given(
    channels=st.sampled_from([1, 2, 3, 4, 5, 17]),
    out=st.sampled_from([1, 15, 16, 17, 33, 64, 65]),
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    extra=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    zero=st.sampled_from([0, 1, 121, 255]),
    pad=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_stem_equals_onnxruntime(graphs, check, channels, out, kernel, stride, extra, zero, pad, seed):
    b = graphs.Builder(seed, channels, kernel + extra[0], kernel + extra[1])
    b.classifier(b.pixel_conv(out, kernel, stride, None if pad else 0, zero))
    check(b, count=1)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    levels=st.tuples(st.integers(1, 63), st.integers(1, 64)).filter(lambda pair: pair[0] < pair[1]),
    bits=st.sampled_from([1, 2, 4, 8]),
    channels=st.sampled_from(CHANNELS),
    kernel=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**16),
)
def test_four_levels_are_those_of_the_attribute(graphs, check, levels, bits, channels, kernel, seed):
    """Runtime and onnxruntime against int64 sums of weights that are made of the levels, not of planes."""
    low, high = levels
    b = graphs.Builder(seed, 3, 6, 5)
    b.levels = levels
    x = b.quantize(b.pixel_conv(channels, 1), bits)
    y = b.conv(x, "FourLevel", 18, (kernel, kernel), unit=True)
    b.classifier(y)
    images = b.images(1)
    b.images = lambda count: images
    found = check(b, count=1).trace({"input": images}, merge=False)
    sign1, sign2 = (np.unpackbits(p, axis=1, count=kernel**2 * channels, bitorder="little") for p in b.planes)
    weight = np.where(sign1, np.where(sign2, -high, -low), np.where(sign2, low, high)).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(found[x][0].astype(np.int64), (kernel, kernel), (1, 2))
    taps = windows.transpose(1, 2, 3, 4, 0).reshape(*windows.shape[1:3], -1)  # [H, W, (kh, kw, in-channel)]
    np.testing.assert_array_equal(found[y][0], np.einsum("ok,hwk->ohw", weight, taps))


@pytest.mark.parametrize("width", range(1, 20))
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_every_width_in_every_lane_size(build, check, channels, width):
    for kind, out in (("Binary", channels), ("Ternary", 2 * channels), ("Ternary", channels)):
        check(
            build({
                "kind": kind, "bits": 2, "channels": channels, "out": out, "kernel": (3, 3), "pads": [1] * 4, "strides": (1, 1),
                "size": [3, width], "unit": False, "after": "relu", "next_bits": 2, "keep": False, "seed": width,
            }),
            count=1,
        )  # fmt: skip


PRODUCTS = {"popcount": 1, "dot": BYTES, "look-up": FOURS}
"""Name of a product: bits of a code in the layout it reads."""


@pytest.fixture
def prefer(monkeypatch):
    """Make plans take one product wherever they can."""

    def install(product):
        def cost(conv, layout, *_args):
            return 0.0 if layout.code_bits == PRODUCTS[product] else 1.0

        monkeypatch.setattr(choose, "codes_cost", cost)
        monkeypatch.setattr(choose, "store_cost", lambda *_args: 0.0)

    return install


def takes(product, bits):
    """Whether codes of so many bits can be taken by a product here."""
    return {"popcount": True, "dot": bits > 1, "look-up": bits <= 2 and is_narrow(MACHINE)}[product]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [19, 80])
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("kind", [*KINDS, "FourLevel"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_gives_the_same_sums(build, check, prefer, product, kind, bits, channels, stride):
    prefer(product)
    layer = {
        "kind": kind, "bits": bits, "channels": channels, "out": 33, "kernel": (7, 7), "pads": [3] * 4, "strides": (stride, 1),
        "size": [9, 9], "unit": True, "after": "none", "next_bits": bits, "keep": False, "seed": 1,
    }  # fmt: skip
    session = check(build(layer), count=1)
    kernels = [k for k in session.kernels().values() if k.startswith(tuple(PRODUCTS))]
    assert any(k.startswith(product) for k in kernels[1:]) == takes(product, bits)  # the first is of pixels


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("weight_bits", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("kind", [*KINDS, "FourLevel"])
def test_the_largest_codes_and_equal_weights_are_exact(graphs, check, prefer, kind, bits, weight_bits, product):
    """Every sum is as large as it can be, of either sign: the worst for sums in bytes."""
    prefer(product)
    b = graphs.Builder(1, 3, 12, 12)
    x = b.quantize(b.pixel_conv(128, 1, 1, 0, 0, 64, 32), bits, sign=False)
    b.weight_bits, b.levels = weight_bits, (63, 64)
    y = b.conv(x, kind, 48, (3, 3), pads=(1, 1, 1, 1))
    b.classifier(b.conv(b.quantize(y, bits), "Binary", 16, (1, 1)))
    b.images = lambda count: np.full((count, 3, 12, 12), 255, np.uint8)
    check(b)


@pytest.mark.parametrize("kind", [*KINDS, "FourLevel"])
def test_the_largest_sums_of_bytes_do_not_saturate(build, check, kind):
    layer = {
        "kind": kind, "bits": 8, "channels": 64, "out": 16, "kernel": (3, 3), "pads": [1] * 4, "strides": (2, 1),
        "size": [8, 8], "unit": False, "after": "relu", "next_bits": 8, "keep": True, "seed": 2,
    }  # fmt: skip
    check(build(layer), count=2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("largest", [1, 2, 5, 9, 14, 20, 40, 64])
def test_the_largest_sum_of_a_filter_is_exact(graphs, check, largest, sign):
    """Images that are 255 where the weights of one filter have one sign, and 0 elsewhere: the worst for sums in 16 bits."""
    b = graphs.Builder(largest, 3, 7, 7)
    b.classifier(b.pixel_conv(20, 7, 1, 0, 0, largest))
    weight = next(nh.to_array(t) for t in b.initializers if t.name.startswith("weight"))
    b.images = lambda count: (255 * (sign * weight > 0)).astype(np.uint8)
    check(b)
