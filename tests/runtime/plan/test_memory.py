"""A model that asks for more memory than there is is refused, in one line, before it is allocated."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from bitplane.runtime import InferenceSession, ModelError, process
from bitplane.runtime.layouts import FeaturesLayout
from bitplane.runtime.plan.arena import Arena, Constants


@pytest.fixture
def data(graphs):
    return graphs.resnet(1, "Ternary", 2, 16, (16,), 1).model().SerializeToString()


def refusal(data, threads=1):
    with pytest.raises(ModelError) as error:
        InferenceSession(data, threads=threads)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_plan_larger_than_memory_is_refused(data, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.plan.memory.memory_limit", lambda: 20_000)
    assert "this process can have 20000; use smaller images or fewer threads" in refusal(data)


def test_a_plan_that_fits_once_but_not_for_every_thread_is_refused(data, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.plan.memory.memory_limit", lambda: 400_000)
    InferenceSession(data)
    assert "for values of each of 50 threads" in refusal(data, 50)


def test_more_threads_than_memory_holds_rows_for_are_refused(data):
    assert "more than 4294967296 together" in refusal(data, 10_000_000)


def test_values_larger_than_any_machine_are_refused_before_they_are_allocated(graphs):
    b = graphs.Builder(0, 1, 8000, 8000)
    x = b.pixel_conv(1, 1)
    b.classifier(b.op("Add", x, b.op("Relu", x)))
    data = b.model().SerializeToString()
    tracemalloc.start()
    try:
        assert "more than 4294967296 together" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [2900, 1200])
def test_weights_that_padding_multiplies_are_refused_before_they_are_unpacked(graphs, side):
    b = graphs.Builder(0, 1, side, side)
    b.classifier(b.conv(b.quantize(b.pixel_conv(1, 1), 1), "Binary", 1, (side, side)))
    data = b.model().SerializeToString()
    tracemalloc.start()
    try:
        assert "the weights of the file, unpacked, have more than 268435456 elements" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_constants_are_bounded_while_they_grow(graphs, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.plan.memory.MAX_MEMORY", 100_000)
    b = graphs.Builder(0, 1, 1, 1)
    x = b.pad_shortcut(b.pixel_conv(16, 1), 0, 1008, 1)
    for _ in range(1000):
        b.quantize(x, 2)
    b.classifier(x)
    added = []
    add = Constants.add
    monkeypatch.setattr(Constants, "add", lambda self, array: added.append(array.nbytes) or add(self, array))
    assert "more than 100000 together" in refusal(b.model().SerializeToString())
    assert sum(added) < 120_000


def test_no_memory_for_an_arena_is_an_error_of_one_line():
    def allocate(size):
        raise MemoryError

    arena = Arena(allocate=allocate)
    arena.reserve(1 << 20)
    with pytest.raises(ModelError, match="needs 1048576 bytes for values"):
        arena.create()


def test_no_memory_for_weights_is_an_error_of_one_line(data, monkeypatch):
    def pack(*_):
        raise MemoryError

    monkeypatch.setattr("bitplane.runtime.plan.convolve.pack_weights", pack)
    assert "its weights need more memory" in refusal(data)


@pytest.mark.parametrize(("text", "limit"), [("12345\n", 12345), ("max\n", None), ("", None), (None, None)])
def test_the_limit_is_the_machines_or_the_containers(tmp_path, monkeypatch, text, limit):
    monkeypatch.setattr(process, "MEMORY_LIMIT", tmp_path / "memory.max")
    whole = process.memory_limit()
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    assert process.memory_limit() == (limit or whole)
    assert whole > 1 << 20


def test_free_blocks_are_joined_and_the_smallest_that_fits_is_taken():
    rng = np.random.default_rng(0)
    arena, live = Arena(), []
    for _ in range(2000):
        if live and rng.random() < 0.5:
            layout, at = live.pop(rng.integers(len(live)))
            arena.give_features(layout, at)
        else:
            layout = FeaturesLayout(16, 1, int(rng.integers(1, 20)))
            free = [size for _, size in arena._free if size >= layout.size]
            end, at = arena.size, arena.take_features(layout)
            assert (at == end) == (not free)
            live.append((layout, at))
        blocks = sorted([*arena._free, *((at, layout.size) for layout, at in live)])
        assert sum(size for _, size in blocks) == arena.size
        assert all(a + size == b for (a, size), (b, _) in pairwise(blocks))
        assert all(a + size < b for (a, size), (b, _) in pairwise(arena._free))
        assert sorted((size, at) for at, size in arena._free) == arena._by_size
