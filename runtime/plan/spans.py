"""How many words a tile may add in narrow lanes before their sums must be added to wider ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitplane.format.levels import LevelSet

BITS_SPAN = 31
"""Words whose bits a byte can count, 8 of each word."""

SURE_SPAN = 48
"""Words beyond which a longer span no longer pays."""

LEAST_SPAN = 4
"""Words from which on it pays to sum products in 16 bits first."""


def pairs_span(words: NDArray[np.generic], top: int) -> int:
    """Words that a tile may multiply before a 16-bit sum of pairs of products could overflow, whatever the codes are.

    The bound is that of the largest weight or, where that allows few words, that of the weights as they lie.

    Args:
        words: [R, kh, words], each of 4 int8.
        top: largest code.
    """
    weights = words.view(np.int8).reshape(*words.shape, 2, 2)
    largest, most = max(int(weights.max(initial=1)), -int(weights.min(initial=-1))), 2**15 - 1
    span = max(1, most // (2 * top * largest))
    if span >= SURE_SPAN:
        return span
    sides = [top * np.maximum(sign * weights.astype(np.int16), 0).sum(-1, dtype=np.int32) for sign in (1, -1)]
    return _longest_span(sides, most, span)


def _longest_span(sides: Sequence[NDArray[np.integer]], most: int, span: int, step: int = 1) -> int:
    """Words of the longest span up to `SURE_SPAN` over which no sum passes `most`; `span` if that is longer.

    A tile takes as many whole kernel rows of words as a span holds, or else equal parts of one row, multiples of `step`.

    Args:
        sides: what each word can add to a sum at the most, and take from it, [R, kh, words, sums].
        most: largest magnitude of a sum.
        span: words that are safe.
        step: see above.
    """
    kh, count = sides[0].shape[1:3]
    parts = (-(-count // n) for n in range(2, count + 1))
    runs = {*(rows * count for rows in range(1, kh + 1)), *(part + -part % step for part in parts)}
    totals = [np.cumsum(side, axis=2, dtype=np.int32) for side in sides]
    for run in sorted((r for r in runs if span < r <= SURE_SPAN), reverse=True):
        if all(_most_of_runs(total, run) <= most for total in totals):
            return run
    return span


def _most_of_runs(totals: NDArray[np.int32], span: int) -> int:
    """Largest sum of a run of `span` words, by the runs a tile takes, of running totals [R, kh, words, sums]."""
    kh, words = totals.shape[1:3]
    if span >= words:
        return int(np.add.reduceat(totals[:, :, -1], np.arange(0, kh, span // words), axis=1).max())
    ends = totals[:, :, [*range(span - 1, words - 1, span), words - 1]]
    return int(np.diff(ends, axis=2, prepend=0).max())


def has_mask(levels: LevelSet) -> bool:
    """Whether a level set has a plane that says which weights are not 0; else its planes are all signs."""
    return "mask" in levels.plane_names


def center(levels: LevelSet, bits: int) -> float:
    """What codes of 1 or 2 bits count from in a table: sums of four are whole, and small, so that a byte holds many."""
    return bits - 1 if has_mask(levels) else (2**bits - 1) / 2


def four_bound(levels: LevelSet, bits: int) -> int:
    """Largest magnitude of the sum of four products that a look-up of codes of `bits` bits adds."""
    top = 2**bits - 1
    return int(4 * max(top - center(levels, bits), center(levels, bits)))


def count_spans(rows: int, words: int, span: int) -> int:
    """Spans of a tile over kernel rows of `words` words: whole rows, as many as fit, or else parts of one."""
    whole = span // words
    return -(-rows // whole) if whole else rows * -(-words // span)


def four_span(levels: LevelSet, bits: int, words: int) -> int:
    """Words that a look-up tile adds in bytes whatever the weights: whole kernel rows, or equal parts, even for loops of 2."""
    most = 127 // four_bound(levels, bits) // 2 * 2
    if words <= most:
        return most
    part = -(-words // -(-words // most))
    return part + part % 2


def four_span_of(levels: LevelSet, bits: int, indices: list[NDArray[np.generic]]) -> int:
    """The same for these weights, the indices of `four_words`: ternary ones that are 0 add nothing."""
    span = four_span(levels, bits, indices[0].shape[2])
    if not has_mask(levels):
        return span
    counts = [np.bitwise_count(i)[..., None] for i in indices]  # uint8, at most 4
    low = int(center(levels, bits))
    high = 2**bits - 1 - low
    sides = [high * counts[0] + low * counts[1], low * counts[0] + high * counts[1]]
    return _longest_span(sides, 127, span, step=2)
