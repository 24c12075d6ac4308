"""Memory for tests in which an access outside a buffer is seen: `pytest tests/runtime --memory after` runs them all in it.

    after     every value of the arena, every constant, the images and the logits end where a page begins that nobody may touch
    before    they begin where such a page ends
    poison    values lie as in use, reused, with 64 bytes of poison between them that must stay; features are poisoned at first

A buffer of the arena or of the constants is a whole number of cache lines, images and logits are exact to the byte. With guard
pages a wrong access ends the process (SIGSEGV), so what runs in it is a process of its own: `test_guarded.py` starts one.
"""

import ctypes
import mmap
from typing import ClassVar, Literal

import numpy as np

from bitplane.runtime import session
from bitplane.runtime.layouts import round_up
from bitplane.runtime.plan import make, memory
from bitplane.runtime.plan.arena import Arena, Constants

PAGE, PROT_NONE = mmap.PAGESIZE, 0
MARGIN = 64
POISON = 0xFF  # of float32: NaN
Mode = Literal["after", "before", "poison"]
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Pages:
    """Lays out buffers, each with a page after or before it that will be forbidden."""

    def __init__(self, before: bool) -> None:
        self.before, self.size, self.guards = before, 0, []

    def reserve(self, size: int) -> int:
        """Offset of a buffer of `size` bytes."""
        whole = -(-size // PAGE) * PAGE
        first = self.size
        self.size += whole + PAGE
        self.guards.append(first if self.before else first + whole)
        return first + PAGE if self.before else first + whole - size

    def create(self) -> np.ndarray:
        """The memory, zero, its guard pages forbidden."""
        memory = np.frombuffer(mmap.mmap(-1, max(self.size, PAGE)), np.uint8)  # the array keeps the mapping alive
        for at in self.guards:
            if _mprotect(memory.ctypes.data + at, PAGE, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        return memory


def guarded(array: np.ndarray, before: bool) -> np.ndarray:
    """A copy of an array that touches a guard page."""
    pages = Pages(before)
    at = pages.reserve(array.nbytes)
    copy = pages.create()[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class GuardedArena(Arena):
    """Every value has memory of its own, next to a guard page."""

    before: ClassVar[bool] = False

    def reserve(self, size):
        if not hasattr(self, "pages"):
            self.pages = Pages(self.before)
        at = self.pages.reserve(round_up(size))
        self.size = self.pages.size
        return at

    def give_codes(self, layout, at):
        pass

    def give_features(self, layout, at):
        pass

    def create(self):
        memory = self.pages.create()
        for at, size, value in self.fills:
            memory[at : at + size] = value
        return memory


class PoisonedArena(Arena):
    """The arena as it is, with poison between its buffers, and in features that nothing has written yet."""

    def reserve(self, size):
        if not hasattr(self, "margins"):
            self.margins = [super().reserve(MARGIN)]
            self.poisoned = []
        at = super().reserve(size)
        self.margins.append(super().reserve(MARGIN))
        return at

    def take_features(self, layout):
        at = super().take_features(layout)
        self.poisoned.append((at, layout.size))
        return at

    def create(self):
        memory = super().create()
        for at, size in [*self.poisoned, *((m, MARGIN) for m in self.margins)]:
            memory[at : at + size] = POISON
        return memory

    def check(self, memory) -> None:
        for at in self.margins:
            assert (memory[at : at + MARGIN] == POISON).all(), f"a kernel wrote to byte {at} of the arena"


class GuardedConstants(Constants):
    """Every constant lies next to a guard page."""

    before: ClassVar[bool] = False

    def __init__(self, check) -> None:
        super().__init__(check)
        self.pages, self.arrays = Pages(self.before), []

    def add(self, array):
        data = array.tobytes()
        at = self.pages.reserve(round_up(len(data)))
        self.arrays.append((at, data))
        self.bounds.append((at, round_up(len(data))))
        self.size = self.pages.size
        return at

    def bytes(self):
        block = self.pages.create()
        for at, data in self.arrays:
            block[at : at + len(data)] = np.frombuffer(data, np.uint8)
        return block


def install(mode: Mode) -> None:
    """Give every session of this process such memory."""
    before, run = mode == "before", session.Executor.run

    def run_guarded(self, images, logits, share_image):
        if mode == "poison":
            around = np.full(logits.nbytes + 2 * MARGIN, POISON, np.uint8)
            inner = around[MARGIN : MARGIN + logits.nbytes].view(np.float32).reshape(logits.shape)
            run(self, images, inner, share_image)
            assert (around[:MARGIN] == POISON).all(), "a kernel wrote before the logits"
            assert (around[-MARGIN:] == POISON).all(), "a kernel wrote after the logits"
            for memory in self._arenas:
                self._plan.arena.check(memory)
        else:
            inner = guarded(logits, before)
            run(self, guarded(images, before), inner, share_image)
        logits[...] = inner

    session.Executor.run = run_guarded
    if mode == "poison":
        memory.Arena = PoisonedArena
        return
    GuardedArena.before = GuardedConstants.before = before
    memory.Arena, make.Constants = GuardedArena, GuardedConstants
