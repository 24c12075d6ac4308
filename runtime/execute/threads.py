"""What one call of `run` needs to itself: arenas, the words that threads share, and the threads that help it.

A session keeps the executors that are not at work. A call takes one, or makes one if there is none, and gives it back: calls
from several Python threads run at the same time, share the plan and its constants only, and never wait for each other. The
threads of an executor belong to it alone: a part of a call cannot be queued behind a part of another one that waits for it at a
barrier.

A worker waits in compiled code, without Python's lock, looking at its mailbox for a moment after each call (`allow_spinning`),
because waking a sleeping thread takes as long as a small network and its core has gone slow meanwhile; then it sleeps. All that
can fail happens before any part has started, and a call that has started cannot be interrupted: nothing ever runs half a call.
"""

import _thread
import os
import queue
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.errors import ResourceError
from bitplane.runtime.execute.call import Call, role, wait_for_mail
from bitplane.runtime.execute.machine_code import RunPlan
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.plan.arena import aligned_zeros
from bitplane.runtime.plan.plan import Plan

LOOKS = 4000
"""Times a worker looks at its mailbox before it sleeps, half of them with a yield between: 0.8 ms on a Zen 5 by itself."""


class Worker:
    """A thread that runs the walker when a call says so, and ends with its executor.

    Both are told to it through a queue whose `put` is one step of the interpreter: an interrupt comes before or after it. The
    thread itself watches its executor, by a weak reference, so wherever an interrupt ends the caller nobody has to be closed.

    Args:
        owner: the executor.
        run_plan: the compiled walker.
        mail: its mailbox, int64 [MAILBOX].
        looks: times it looks at the mailbox before it sleeps.

    Raises:
        ResourceError: the thread cannot be started.
    """

    def __init__(self, owner: "Executor", run_plan: RunPlan, mail: NDArray[np.int64], looks: int) -> None:
        self._mail, self._news = mail, queue.SimpleQueue[Any]()
        started = queue.SimpleQueue[Any]()
        life = _Life(started.put)
        ended = weakref.ref(life, started.put)  # tells of a thread that found no memory to begin
        watched = weakref.ref(owner, self._news.put)
        try:
            # Not threading.Thread, whose `start` keeps a record of the thread for good if an interrupt ends it.
            _thread.start_new_thread(_serve, (run_plan, mail, looks, self._news, watched, life))
        except RuntimeError as e:
            raise ResourceError(f"a thread cannot be started ({e}); give fewer threads") from e
        del life
        if started.get() is ended:
            raise ResourceError("a thread cannot be started (not enough memory); give fewer threads")

    def announce(self) -> None:
        """Be awake: a call will let the mailbox's sequence number grow."""
        self._news.put(int(self._mail[0]) + 1)

    def close(self) -> None:
        """End the thread, when it is done with what it does."""
        self._news.put(None)


class _Life:
    """What a thread holds while it lives; `begin` says that it does."""

    def __init__(self, begin: Callable[[Any], None]) -> None:
        self.begin = begin


def _serve(
    run_plan: RunPlan, mail: NDArray[np.int64], looks: int, news: "queue.SimpleQueue[Any]", watched: Any, life: _Life
) -> None:
    """What a worker does. `watched` is the reference that tells of its executor's end, as long as it is held."""
    address, announced = mail.ctypes.data, 0
    life.begin(watched)
    while True:
        try:
            run_plan(*wait_for_mail(int(mail[f.MAIL_TAKEN]), looks, address))
            while isinstance(told := news.get(block=announced <= mail[f.MAIL_TAKEN]), int):
                announced = told
            return  # whatever else it is told ends it
        except queue.Empty:
            pass  # a call is announced, and its mail is still to come
        except (MemoryError, SystemError):  # the second is what numpy says of the first
            pass  # a caller waits for this thread: try again until there is some


class Executor:
    """Memory and threads of one call at a time.

    Args:
        run_plan: the compiled walker.
        plan: what it walks.
        threads: threads of a call, this one included.
        allow_spinning: whether workers look for the next call for a moment before they sleep.
    """

    def __init__(self, run_plan: RunPlan, plan: Plan, threads: int, allow_spinning: bool = True) -> None:
        self._run_plan, self._plan, self._threads = run_plan, plan, threads
        self._looks = LOOKS if allow_spinning else 1
        self._table = plan.table.ctypes.data, len(plan.table)
        self._constants = plan.constants.ctypes.data
        self._arenas = [plan.arena.create()]
        self._addresses = [self._arenas[0].ctypes.data]
        words = f.MAILBOXES + (threads - 1) * f.MAILBOX
        self._shared = aligned_zeros(8 * words).view(np.int64)
        self._workers: list[Worker] = []
        self._process = 0  # that the workers run in

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
            BaseException: whatever kept it from starting, such as KeyboardInterrupt; nothing has run then.
        """
        count = len(images)
        if self._threads == 1 or count == 0 or (count == 1 and not share_image):
            at, size, out, out_size = images.ctypes.data, images.strides[0], logits.ctypes.data, logits.strides[0]
            self._run_plan(*Call(*self._table, self._addresses[0], self._constants, at, size, out, out_size, count))
        elif count == 1:
            self._run_together([Part(0, 0, 1, part, self._threads) for part in range(self._threads)], images, logits)
        else:
            parts = min(self._threads, count)
            cuts = [count * part // parts for part in range(parts + 1)]
            self._run_together([Part(part, cuts[part], cuts[part + 1]) for part in range(parts)], images, logits)

    def _call(self, images: NDArray[Any], logits: NDArray[np.float32], part: "Part", helpers: int = 0) -> Call:
        image_bytes, logits_bytes = images.strides[0], logits.strides[0]
        return Call(
            *self._table,
            self._addresses[part.arena],
            self._constants,
            images.ctypes.data + part.begin * image_bytes,
            image_bytes,
            logits.ctypes.data + part.begin * logits_bytes,
            logits_bytes,
            part.end - part.begin,
            role(part.number, part.numbers, helpers),
            self._shared.ctypes.data,
        )

    def _run_together(self, parts: list["Part"], images: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Run all parts at once, the first of them here."""
        while len(self._arenas) <= max(part.arena for part in parts):
            self._arenas.append(self._plan.arena.create())
            self._addresses.append(self._arenas[-1].ctypes.data)
        try:
            self._start_workers(len(parts) - 1)
            self._shared[: f.MAILBOXES] = 0
            workers = self._workers[: len(parts) - 1]
            for number, (worker, part) in enumerate(zip(workers, parts[1:], strict=True)):
                self._mailbox(number)[1 : 1 + f.ARGUMENTS] = list(self._call(images, logits, part))
                worker.announce()
            self._run_plan(*self._call(images, logits, parts[0], len(workers)))
        except BaseException:
            self._stop_workers()  # some may wait for what will not come
            raise

    def _mailbox(self, number: int) -> NDArray[np.int64]:
        start = f.MAILBOXES + number * f.MAILBOX
        return self._shared[start : start + f.MAILBOX]

    def _start_workers(self, count: int) -> None:
        """Have `count` workers, in this process: a forked one has none of its parent's threads."""
        if self._process != os.getpid():
            self._workers, self._process = [], os.getpid()
            self._shared = aligned_zeros(self._shared.nbytes).view(np.int64)
        while len(self._workers) < count:
            self._workers.append(Worker(self, self._run_plan, self._mailbox(len(self._workers)), self._looks))

    def _stop_workers(self) -> None:
        self._process = 0  # the next call has shared words and workers of its own
        for worker in self._workers:
            worker.close()


class Part(NamedTuple):
    """A thread's part of a call: images [begin, end) in an arena, as thread `number` of `numbers` that share each image."""

    arena: int
    begin: int
    end: int
    number: int = 0
    numbers: int = 1
