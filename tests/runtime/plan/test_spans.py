"""How many words a tile may multiply before its sums in bytes or 16 bits are added to wider ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplane.format.levels import BINARY, TERNARY
from bitplane.runtime.plan.spans import SURE_SPAN, center, four_span, four_span_of, pairs_span


def most(weights, top, span):
    """Largest magnitude of a 16-bit sum over the runs of a tile, for the worst codes: weights [R, kh, words, 4]."""
    kh, words = weights.shape[1:3]
    rows = max(1, span // words)
    out = 0
    for first_row in range(0, kh, rows):
        for first in range(0, words, span):
            run = weights[:, first_row : first_row + rows, first : first + span].astype(int)
            for pair in (run[..., :2], run[..., 2:]):
                for side in (np.maximum(pair, 0), np.maximum(-pair, 0)):
                    out = max(out, int(side.sum((1, 2, 3)).max()) * top)
    return out


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 60)),
    largest=st.integers(0, 64),
    top=st.sampled_from([1, 3, 15, 255]),
    seed=st.integers(0, 2**16),
)
def test_no_run_of_a_span_can_overflow(shape, largest, top, seed):
    weights = np.random.default_rng(seed).integers(-largest, largest + 1, (*shape, 4)).astype(np.int8)
    span = pairs_span(weights.view(np.uint32)[..., 0], top)
    assert span >= 1
    assert most(weights, top, span) <= 2**15 - 1


@pytest.mark.parametrize(("largest", "top", "span"), [(1, 255, 64), (1, 15, 1092), (10, 15, 109), (64, 255, 1), (10, 255, 6)])
def test_the_span_of_the_largest_weights_everywhere(largest, top, span):
    weights = np.full((16, 3, 24, 4), largest, np.int8)
    assert pairs_span(weights.view(np.uint32)[..., 0], top) == span


def test_weights_of_both_signs_have_a_longer_span_than_the_largest_of_them_alone():
    weights = np.tile(np.array([10, -10, 3, -3], np.int8), (16, 3, 24, 1))
    span = pairs_span(weights.view(np.uint32)[..., 0], 255)
    assert span == 12  # half a row of 24 words
    assert most(weights, 255, 24) > 2**15 - 1
    assert span <= SURE_SPAN


def most_of_look_ups(positive, negative, bits, span):
    """Largest and smallest sum in bytes over the runs of a tile, for the worst codes: weight bits [R, kh, words]."""
    codes = np.arange(2**bits) - center(TERNARY, bits)
    weights = [(p >> i & 1).astype(int) - (n >> i & 1) for i in range(4) for p, n in [(positive, negative)]]
    best = {top: sum(np.where(w > 0, w * codes[-1], w * codes[0]) * top for w in np.array(weights) * top) for top in (1, -1)}
    kh, words = positive.shape[1:]
    rows = max(1, span // words)
    return max(
        abs(best[top][:, y : y + rows, x : x + span].sum((1, 2))).max()
        for y in range(0, kh, rows)
        for x in range(0, words, span)
        for top in (1, -1)
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70)),
    zeros=st.sampled_from([0.0, 0.3, 0.6, 0.95]),
    bits=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**16),
)
def test_no_run_of_look_ups_can_overflow(shape, zeros, bits, seed):
    rng = np.random.default_rng(seed)
    mask, sign = rng.random((4, *shape)) >= zeros, rng.random((4, *shape)) < 0.5
    positive, negative = (
        sum(chosen[i].astype(np.uint8) << np.uint8(i) for i in range(4)) for chosen in (mask & ~sign, mask & sign)
    )
    span = four_span_of(TERNARY, bits, [positive, negative])
    assert span >= four_span(TERNARY, bits, shape[2])
    assert most_of_look_ups(positive, negative, bits, span) <= 127


def test_ternary_weights_that_are_zero_lengthen_a_span_of_look_ups():
    ones, none = np.full((16, 3, 96), 15, np.uint8), np.zeros((16, 3, 96), np.uint8)
    assert four_span_of(TERNARY, 2, [ones, none]) == four_span(TERNARY, 2, 96) == 14
    assert four_span_of(TERNARY, 2, [ones & 3, ones & 4]) == 24  # a quarter of a row: 2 * 2 + 1 a word, 120
    assert four_span_of(BINARY, 2, [ones]) == four_span(BINARY, 2, 96)
