"""A max pool runs band by band with the convolution before it, takes its accumulators and a quantizer: onnxruntime's values."""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplane.runtime import InferenceSession
from bitplane.runtime.instructions import Convolve, MaxPool
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.model.parse import parse
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions


@contextmanager
def bands(size):
    """Bands of that many bytes at most, or of one row, and threads that share any image."""
    with patch("bitplane.runtime.session.SHARED_STEP_WORK", 0), patch("bitplane.runtime.plan.memory.BAND_BYTES", size):
        yield


HEADS = ("pixels", "float", "Binary 1", "Ternary 2", "Quaternary 2", "Ternary 4", "Binary 8")


def _graph(graphs, head, height, width, channels, pool, activation, bits, alone, seed=0):
    b = graphs.Builder(seed, 3, height, width)
    if head == "float":
        x = b.float_conv(b.normalize(), channels, (3, 3), (1, 1), (1, 1, 1, 1))
    else:
        x = b.pixel_conv(channels, 3)
        if head != "pixels":
            kind, a = head.split()
            x = b.conv(b.quantize(b.op("Relu", x), int(a)), kind, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    x = b.op("Relu", x) if activation == "relu" else b.clip(x) if activation == "clip" else x
    x = b.max_pool(x, *pool)
    if bits:
        y = b.conv(b.quantize(x, bits), "Binary", channels, (1, 1))
        x = y if alone else b.op("Add", x, y)
    b.classifier(x)
    return b


@settings(max_examples=60)
@given(
    head=st.sampled_from(HEADS),
    height=st.integers(5, 19),
    width=st.integers(5, 19),
    channels=st.sampled_from([3, 16, 40, 64]),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 1)).filter(lambda p: p[2] < p[0]),
    activation=st.sampled_from(["none", "relu", "clip"]),
    bits=st.sampled_from([0, 1, 2, 8]),
    alone=st.booleans(),
    band=st.integers(0, 12000),
    threads=st.integers(1, 3),
)
def test_any_pool_equals_onnxruntime(
    graphs, check, head, height, width, channels, pool, activation, bits, alone, band, threads
):
    b = _graph(graphs, head, height, width, channels, pool, activation, bits, alone)
    with bands(band):
        if head != "float":
            check(b, count=1, threads=threads)
            return
        # The order of a float convolution's sums is ours: its pool is compared with the one that runs by itself.
        session, image = InferenceSession(b.model().SerializeToString(), threads=threads), b.images(1)
        merged, alone_steps = (session.trace({"input": image}, merge) for merge in (True, False))
        for name, value in merged.items():
            np.testing.assert_array_equal(value, alone_steps[name], err_msg=name, strict=True)
        logits = session.run(None, {"input": image})[0]
        np.testing.assert_array_equal(logits, merged["logits"], strict=True)


@pytest.mark.parametrize("head", HEADS)
def test_a_convolution_that_only_a_pool_reads_keeps_few_rows(graphs, head):
    model = parse(_graph(graphs, head, 16, 16, 16, (3, 2, 1), "relu", 2, False).model().SerializeToString())
    with bands(0):
        plan, whole = make_plan(model), make_plan(model, PlanOptions(merge=False))
    at = next(n for n, i in enumerate(plan.instructions) if isinstance(i, Convolve) and i.band)
    conv, pool = plan.instructions[at : at + 2]
    assert isinstance(pool, MaxPool)
    assert (conv.band, pool.band) == (1, -1)
    assert pool.epilogue.quantization.quant in (f.QUANT_TWO, f.QUANT_FOURS)
    assert plan.arena.size < whole.arena.size


def test_a_convolution_that_others_read_too_is_stored_whole(graphs, check):
    b = graphs.Builder(1, 3, 12, 12)
    x = b.op("Relu", b.pixel_conv(16, 3))
    y = b.conv(b.quantize(x, 2), "Binary", 16, (3, 3), (2, 2), (1, 1, 1, 1))
    b.classifier(b.op("Add", b.max_pool(x, 3, 2, 1), y))
    with bands(0):
        check(b)
        plan = make_plan(parse(b.model().SerializeToString()))
    assert not any(i.band for i in plan.instructions if isinstance(i, Convolve))


def test_bands_of_every_number_of_threads_give_the_same_bits(graphs):
    b = _graph(graphs, "pixels", 33, 29, 32, (3, 2, 1), "relu", 2, False)
    data, images = b.model().SerializeToString(), b.images(3)
    expected = InferenceSession(data).run(None, {"input": images})[0]
    for threads in (2, 3, 5):
        with bands(4000):
            session = InferenceSession(data, threads=threads)
        for n in range(3):  # one image, shared by all threads
            found = session.run(None, {"input": images[n : n + 1]})[0]
            np.testing.assert_array_equal(found, expected[n : n + 1], strict=True)
