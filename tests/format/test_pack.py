"""Planes hold every weight once, in the order of FORMAT.md."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitplane.format.levels import LEVEL_SETS
from bitplane.format.pack import pack_weight


def value(name: str, bits: list[int]) -> int:
    """The integer level of one weight's bits, by the words of FORMAT.md."""
    if name == "binary":
        return 1 - 2 * bits[0]
    return bits[1] - 2 * bits[0] if name == "ternary" else 10 - 13 * bits[0] - 7 * bits[1]


@given(
    name=st.sampled_from(sorted(LEVEL_SETS)),
    channels=st.sampled_from([1, 7, 8, 9, 29]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_weight_is_read_back_from_its_bit(name: str, channels: int, kernel: tuple[int, int], seed: int) -> None:
    levels = LEVEL_SETS[name]
    w = np.random.default_rng(seed).choice(levels.integers, (3, channels, *kernel)).astype(np.int8)
    planes = list(pack_weight(w, levels).values())
    count = channels * kernel[0] * kernel[1]
    assert all(p.dtype == np.uint8 and p.shape == (3, -(-count // 8)) for p in planes)
    for o in range(3):
        for k in range(count):
            row, column, c = k // (kernel[1] * channels), k // channels % kernel[1], k % channels
            bits = [int(p[o, k // 8]) >> (k % 8) & 1 for p in planes]
            assert value(name, bits) == w[o, c, row, column]
        for p in planes:
            assert int(p[o, -1]) >> ((count - 1) % 8 + 1) == 0


def test_a_weight_off_the_level_set_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 4 weights are not in binary"):
        pack_weight(np.array([1, -1, 0, 1], np.int8).reshape(1, 4, 1, 1), LEVEL_SETS["binary"])
