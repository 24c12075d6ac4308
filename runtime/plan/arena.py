"""Memory of a plan: constants in one block, intermediate values in one arena with reuse by liveness.

Code buffers are reused only by code buffers of the same geometry, so that their halo and the unused bits of their words
stay zero from the arena's creation on. Features overlap freely once their last reader has run.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.errors import ModelError
from bitplane.runtime.layouts import ALIGN, CodesLayout, FeaturesLayout, round_up


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes that start on a cache line."""
    raw = np.zeros(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size]


class Constants:
    """Grows a block of constants; `add` returns the byte offset of an array in it.

    Args:
        check: called with the size whenever it has grown; raises if that is too much.
    """

    def __init__(self, check: Callable[[int], None]) -> None:
        self._check = check
        self._parts: list[bytes] = []
        self.bounds: list[tuple[int, int]] = []  # offset and bytes of each constant
        self.size = 0

    def add(self, array: NDArray[np.generic]) -> int:
        """Append an array, on its own cache lines."""
        at, data = self.size, array.tobytes()
        padded = round_up(len(data))
        self._parts.append(data + bytes(padded - len(data)))
        self.bounds.append((at, padded))
        self.size += padded
        self._check(self.size)
        return at

    def bytes(self) -> NDArray[np.uint8]:
        """The whole block, aligned."""
        block, at = aligned_zeros(self.size), 0
        for part in self._parts:
            block[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        return block


@dataclass
class Arena:
    """Places buffers; `reuse=False` gives each its own memory, so that all can be read. `fills` are set at creation.

    Every access of a kernel lies inside the `size` bytes that `allocate` returns, reads of whole vectors and words included.
    """

    reuse: bool = True
    allocate: Callable[[int], NDArray[np.uint8]] = aligned_zeros
    size: int = 0
    fills: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])  # offset, bytes, value
    _free_codes: dict[CodesLayout, list[int]] = field(default_factory=dict[CodesLayout, list[int]])
    _free: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # (offset, bytes) of features, sorted
    _by_size: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # the same as (bytes, offset)

    def reserve(self, size: int) -> int:
        """Memory that is never given back."""
        at = self.size
        self.size += round_up(size)
        return at

    def take_codes(self, layout: CodesLayout) -> int:
        """A buffer of codes."""
        free = self._free_codes.get(layout)
        return free.pop() if free else self.reserve(layout.size)

    def take_features(self, layout: FeaturesLayout) -> int:
        """A buffer of features: the smallest free block that holds it, or new memory."""
        size = round_up(layout.size)
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return self.reserve(size)
        have, at = self._by_size[index]
        self._remove(at, have)
        if have > size:
            self._insert(at + size, have - size)
        return at

    def give_codes(self, layout: CodesLayout, at: int) -> None:
        """Take back a buffer of codes."""
        if self.reuse:
            self._free_codes.setdefault(layout, []).append(at)

    def give_features(self, layout: FeaturesLayout, at: int) -> None:
        """Take back a buffer of features, joining it with its free neighbors."""
        if not self.reuse:
            return
        size, index = round_up(layout.size), bisect_left(self._free, (at, 0))
        after = self._free[index : index + 1]
        before = self._free[index - 1 : index] if index else []
        for start, have in (*before, *after):
            if start + have == at or at + size == start:
                self._remove(start, have)
                at, size = min(at, start), size + have
        self._insert(at, size)

    def _insert(self, at: int, size: int) -> None:
        insort(self._free, (at, size))
        insort(self._by_size, (size, at))

    def _remove(self, at: int, size: int) -> None:
        del self._free[bisect_left(self._free, (at, size))]
        del self._by_size[bisect_left(self._by_size, (size, at))]

    def create(self) -> NDArray[np.uint8]:
        """Allocate the arena, zero it and set its halos.

        Raises:
            ModelError: there is not that much memory.
        """
        try:
            memory = self.allocate(self.size)
        except MemoryError:
            raise ModelError(f"the model needs {self.size} bytes for values, more than this process can have") from None
        for at, size, value in self.fills:
            memory[at : at + size] = value
        return memory
