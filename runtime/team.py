"""What one call of `run` needs to itself: arenas, a barrier, and the threads that help it.

A session keeps the teams that are not at work. A call takes one, or makes one if there is none, and gives it back: calls from
several Python threads run at the same time, share the plan and its constants only, and never wait for each other. The threads
of a team belong to it alone: a part of a call cannot be queued behind a part of another one that waits for it at a barrier.

A call that ends early (Ctrl-C, a thread that cannot be started) opens the barrier, so that its other parts come to an end, and
gives its team up: they may still be writing to that team's memory, and hold it until they are done.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.machine_code import RunPlan
from bitplane.runtime.plan import Plan

OPEN = 1 << 62
"""Count of a barrier that lets everyone pass. What is computed then is worthless, but every access stays in the arena."""


class Team:
    """Memory and threads of one call at a time.

    Args:
        run_plan: the compiled walker.
        plan: what it walks.
        threads: threads of a call, this one included.
    """

    def __init__(self, run_plan: RunPlan, plan: Plan, threads: int) -> None:
        self._run_plan, self._plan, self._threads = run_plan, plan, threads
        self._table = plan.table.ctypes.data, len(plan.table)
        self._constants = plan.constants.ctypes.data
        self._arenas = [plan.arena.create()]
        self._addresses = [self._arenas[0].ctypes.data]
        self._barrier = np.zeros(16, np.int64)
        self._barrier_address = self._barrier.ctypes.data
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0  # that the pool's threads run in

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The arena of this thread."""
        return self._arenas[0]

    def run(self, images: NDArray[Any], logits: NDArray[np.float32], share_image: bool) -> None:
        """Compute logits [N, classes] of images [N, C, H, W], both C-contiguous.

        Args:
            images: what the model takes.
            logits: where to write.
            share_image: whether a single image is worth being divided among the threads.

        Raises:
            BaseException: whatever ended it early, KeyboardInterrupt for one; the team cannot be used any more.
        """
        count = len(images)
        if self._threads == 1 or count == 0 or (count == 1 and not share_image):
            self._call(0, images, logits, 0, count)
        elif count == 1:
            self._barrier[:] = 0
            self._together([(0, 0, 1, part, self._threads) for part in range(self._threads)], images, logits)
        else:
            parts = min(self._threads, count)
            cuts = [count * part // parts for part in range(parts + 1)]
            self._together([(part, cuts[part], cuts[part + 1], 0, 1) for part in range(parts)], images, logits)

    def _call(
        self,
        arena: int,
        images: NDArray[Any],
        logits: NDArray[np.float32],
        begin: int,
        end: int,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        image_bytes, logits_bytes = images.strides[0], logits.strides[0]
        self._run_plan(
            *self._table,
            self._addresses[arena],
            self._constants,
            images.ctypes.data + begin * image_bytes,
            image_bytes,
            logits.ctypes.data + begin * logits_bytes,
            logits_bytes,
            end - begin,
            part << 32 | parts,
            self._barrier_address,
        )

    def _together(self, calls: list[tuple[int, int, int, int, int]], images: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Run all calls (arena, begin, end, part, parts) at once, the first of them here."""
        while len(self._arenas) <= max(call[0] for call in calls):
            self._arenas.append(self._plan.arena.create())
            self._addresses.append(self._arenas[-1].ctypes.data)
        if self._pool is None or self._process != os.getpid():  # a forked process has none of its parent's threads
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="bitplane")
            self._process = os.getpid()
        try:
            pending = [self._pool.submit(self._call, a, images, logits, b, e, p, n) for a, b, e, p, n in calls[1:]]
            a, b, e, p, n = calls[0]
            self._call(a, images, logits, b, e, p, n)
            for future in pending:
                future.result()
        except BaseException:
            self._barrier[:] = OPEN
            raise
