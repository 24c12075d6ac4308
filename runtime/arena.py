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

ALIGN = 64
"""Bytes of a cache line, and of the widest vector."""


BYTES, FOURS = 8, 2
"""Bits of a code where codes lie side by side (`CodesLayout.code_bits`)."""


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes that start on a cache line."""
    raw = np.zeros(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size]


def round_up(size: int) -> int:
    """`size` in whole cache lines."""
    return -(-size // ALIGN) * ALIGN


class Constants:
    """Grows a block of constants; `add` returns the byte offset of an array in it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, array: NDArray[np.generic]) -> int:
        """Append an array, on its own cache lines."""
        at, data = self.size, array.tobytes()
        padded = round_up(len(data))
        self._parts.append(data + bytes(padded - len(data)))
        self.size += padded
        return at

    def bytes(self) -> NDArray[np.uint8]:
        """The whole block, aligned."""
        block, at = aligned_zeros(self.size), 0
        for part in self._parts:
            block[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        return block


@dataclass(frozen=True)
class CodesLayout:
    """Codes in memory, [plane][H + 2 halo][W + 2 halo][words].

    Attributes:
        channels: bits of a pixel in one plane that mean something.
        height: rows without halo.
        width: pixels of a row without halo.
        planes: planes of bits; 1 where a pixel's codes lie side by side.
        halo: zero pixels around.
        bits: bits of a word.
        code_bits: bits of a code in a word: 1 in bit-planes, 8 where a byte is a code ("bytes"), 2 where a byte holds four
            codes of 1 or 2 bits, the first lowest ("fours").
    """

    channels: int
    height: int
    width: int
    planes: int
    halo: int
    bits: int
    code_bits: int = 1

    @property
    def words(self) -> int:
        """Words of a pixel."""
        return -(-self.channels // self.bits)

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.words * self.bits // 8

    @property
    def row(self) -> int:
        """Bytes of a row with its halo."""
        return (self.width + 2 * self.halo) * self.pixel

    @property
    def plane(self) -> int:
        """Bytes between two planes."""
        return round_up((self.height + 2 * self.halo) * self.row)

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.planes * self.plane

    def at(self, y: int, x: int) -> int:
        """Byte offset of pixel (y, x), which may lie in the halo."""
        return (y + self.halo) * self.row + (x + self.halo) * self.pixel


@dataclass(frozen=True)
class FeaturesLayout:
    """Float32 features [H][W][channels], channels a multiple of 16."""

    channels: int
    height: int
    width: int

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.channels * 4

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.width * self.pixel

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.height * self.row


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
