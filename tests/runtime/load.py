"""Mixed load: eight threads, batches of 1 to 64, sessions made and dropped, forks and interrupts; every result is compared.

    python tests/runtime/load.py --seconds 3600 --json load.json

With glibc set MALLOC_ARENA_MAX=1 to see what the process holds: by default each thread's arena keeps freed memory in pieces.

The load comes in rounds. In a round eight Python threads call sessions that they share and sessions of their own. Meanwhile the
main thread is interrupted at random moments of making a session and of calling one, and forks: a child calls a session that it
inherits and one that it makes. After a round all sessions are dropped; then the process must have the threads that it had
before. Resident memory is read there, and its growth is that of the median of the last tenth of the rounds over the median of
the first tenth after the warm-up.

References are the logits of each image by itself in a session of one thread, which onnxruntime's must be close to; every other
result must have their bits. The figures so far are written after each round, so that a run that is stopped has some.
"""

import argparse
import gc
import json
import os
import random
import resource
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime

import bitplane.runtime.session as session_module
from bitplane.runtime import InferenceSession

ROOT = Path(__file__).resolve().parents[2]
MODELS = [
    ROOT / "tests/fixtures/format-1.1/every-operator.onnx",
    ROOT / "tests/fixtures/format-1/ternary2.onnx",
    ROOT / "tests/fixtures/format-1/binary1.onnx",
    ROOT / "tests/fixtures/format-1/quaternary4.onnx",
    ROOT / "examples/resnet20-cifar10-ternary8.onnx",
]
BATCH = 64
CALLERS = 8
WARM_UP = 0.1
"""Share of the time before memory is compared."""
CHILD_SECONDS = 120
"""After which a forked child is thought to hang."""
INTERRUPT_WITHIN = 0.02
"""Seconds from the start of an attempt to its interrupt, at most."""


@dataclass(frozen=True)
class Case:
    """A model with images and their logits."""

    path: Path
    images: np.ndarray
    logits: np.ndarray

    def session(self, threads: int) -> InferenceSession:
        return InferenceSession(self.path, threads=threads)

    def right(self, session: InferenceSession, dice: random.Random) -> bool:
        """Whether a batch has the bits that its images have alone."""
        count = dice.choice([1, 1, 2, dice.randint(1, BATCH)])
        start = dice.randint(0, BATCH - count)
        found = session.run(None, {"input": self.images[start : start + count]})[0]
        return np.array_equal(found, self.logits[start : start + count])


def read_case(path: Path) -> Case:
    session = InferenceSession(path, threads=1)
    (given,) = session.get_inputs()
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (BATCH, *given.shape[1:]), np.uint8)
    images = pixels if given.type == "tensor(uint8)" else (pixels / np.float32(255)).astype(np.float32)
    logits = np.concatenate([session.run(None, {"input": images[i : i + 1]})[0] for i in range(BATCH)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, {"input": images})[0]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * (np.abs(expected).max() + 1))
    return Case(path, images, logits)


@dataclass
class Load:
    """A run of the load.

    Attributes:
        cases: the models.
        counts: what was done, and what went wrong: "wrong", "errors", "threads left".
        problems: the first of what went wrong, in words.
        memory: (seconds, resident bytes) after each round.
    """

    cases: list[Case]
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, problem: str = "") -> None:
        with self.lock:
            self.counts[what] += 1
            if problem and len(self.problems) < 20:
                self.problems.append(f"{what}: {problem}")

    def call(self, case: Case, session: InferenceSession, dice: random.Random) -> None:
        try:
            right = case.right(session, dice)
        except Exception as e:
            self.count("errors", f"{case.path.name}: {type(e).__name__}: {e}")
        else:
            self.count("calls" if right else "wrong", "" if right else case.path.name)

    def caller(self, shared: list[tuple[Case, InferenceSession]], seed: int, end: float) -> None:
        """What one of the eight threads does."""
        dice = random.Random(seed)
        own = None
        while time.monotonic() < end:
            if own is None or dice.random() < 0.05:
                case = dice.choice(self.cases)
                own = case, case.session(dice.choice([0, 1, 2, 3]))
                self.count("sessions")
            self.call(*(own if dice.random() < 0.3 else dice.choice(shared)), dice)

    def fork(self, case: Case, session: InferenceSession, dice: random.Random) -> None:
        """Call an inherited session and a new one in a child."""
        child = os.fork()
        if child == 0:
            self.be_child(case, session, dice)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.count("forks" if status == 0 else "errors", f"a forked child ended with {status}" if status else "")

    def be_child(self, case: Case, session: InferenceSession, dice: random.Random) -> NoReturn:
        status = 3
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(CHILD_SECONDS)
            status = 0 if case.right(session, dice) and case.right(case.session(2), dice) else 2
        finally:
            os._exit(status)

    def interrupted(self, case: Case, session: InferenceSession, dice: random.Random) -> None:
        """Make a session and call it, and one that is shared, until an interrupt comes."""
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-4, INTERRUPT_WITHIN))
        try:
            while True:
                for tried in (case.session(2), session):
                    if not case.right(tried, dice):
                        self.count("wrong", f"{case.path.name}, among interrupts")
        except KeyboardInterrupt:
            self.count("interrupts")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def round(self, seed: int, seconds: float) -> None:
        dice, end = random.Random(seed), time.monotonic() + seconds
        shared = [(case, case.session(threads)) for case in self.cases for threads in (1, 2, 3)]
        callers = [threading.Thread(target=self.caller, args=(shared, seed * 100 + i, end)) for i in range(CALLERS)]
        for caller in callers:
            caller.start()
        while time.monotonic() < end:
            try:
                for _ in range(5):
                    self.interrupted(*dice.choice(shared), dice)
            except KeyboardInterrupt:  # it came as the timer was stopped
                self.count("interrupts")
            self.fork(*dice.choice(shared), dice)
        for caller in callers:
            caller.join()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def threads() -> int:
    """Threads that run Python, those that `threading` does not know included."""
    return len(sys._current_frames())


def wait_for_threads(before: int) -> int:
    """Threads more than before, when those that end have ended; on a machine that others use they may wait for a processor."""
    gc.collect()
    end = time.monotonic() + 60
    while threads() > before and time.monotonic() < end:
        time.sleep(0.01)
    return threads() - before


def figures(load: Load, seconds: float) -> dict[str, object]:
    steady = [size for at, size in load.memory if at >= WARM_UP * seconds]
    tenth = max(1, len(steady) // 10)
    first, last = (statistics.median(part) if part else 0 for part in (steady[:tenth], steady[-tenth:]))
    return {
        **{key: load.counts[key] for key in ("calls", "sessions", "forks", "interrupts", "wrong", "errors", "threads left")},
        "seconds": round(load.memory[-1][0], 1),
        "resident_mb": [round(first / 1e6, 1), round(last / 1e6, 1)],
        "growth": round(last / first - 1, 5) if first else None,
        "problems": load.problems,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--round", type=float, default=15, help="seconds of a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures so far after each round")
    options = parser.parse_args()
    session_module.SHARED_STEP_WORK = 0  # threads share every image, however small: the hardest way
    load = Load([read_case(path) for path in MODELS])
    sys.unraisablehook = lambda e: load.count("lost interrupts" if isinstance(e.exc_value, KeyboardInterrupt) else "errors")

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    before, started, number = threads(), time.monotonic(), 0
    while (left := started + options.seconds - time.monotonic()) > 0:
        load.round(options.seed * 1_000_000 + number, min(options.round, left))
        number += 1
        if more := wait_for_threads(before):
            load.count("threads left", f"{more} after round {number}")
        load.memory.append((time.monotonic() - started, resident()))
        found = figures(load, options.seconds)
        sys.stdout.write(json.dumps({"round": number, "resident_mb": round(resident() / 1e6, 1), **found}) + "\n")
        sys.stdout.flush()
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(load.counts[key] for key in ("wrong", "errors", "threads left")))


if __name__ == "__main__":
    sys.exit(main())
