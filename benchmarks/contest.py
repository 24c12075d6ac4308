"""Contestants take turns: one process each, told in rounds to run for a moment, so that a busy moment hits all of them."""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from tqdm import tqdm

from bitplane.benchmarks import machine
from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.results import Conditions
from bitplane.benchmarks.statistics import NOISY, spread

REFERENCE = bytes(1 << 18)


class Worker:
    """A running `bitplane.benchmarks.worker`.

    Attributes:
        ready: what it said of its start; "total" is milliseconds from its creation to its first result.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        command = [sys.executable, "-m", "bitplane.benchmarks.worker", json.dumps(spec)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1
        )
        try:
            self.ready: dict[str, Any] = self._read()["ready"]
        except PeerError:
            self.close()
            raise
        self.ready["total"] = (time.perf_counter() - start) * 1e3

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for the answer.

        Raises:
            PeerError: it died.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        lines = [s.strip() for s in self._errors.read().decode(errors="replace").splitlines() if s.strip()]
        last = lines[-1] if lines else "no message"
        raise PeerError(f"killed by signal {-code}: {last}" if code < 0 else last)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


@dataclass
class Contest:
    """Workers by name, those that failed, and what their turns gave.

    Attributes:
        specs: name to what the worker is told.
        rounds: turns each gets.
        seconds: length of a turn.
        least: calls in a turn at least.
        ready: name to what it said of its start.
        times: name to milliseconds of the calls of each round.
        energy: name to millijoules of a call in each round, warm-up included, where there is a counter.
        errors: name to why it failed.
    """

    specs: Mapping[str, Mapping[str, Any]]
    rounds: int
    seconds: float
    least: int = 3
    ready: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: dict[str, list[list[float]]] = field(default_factory=dict)
    energy: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    top1: dict[str, float] = field(default_factory=dict)

    def run(self, label: str, accuracy: Iterator[str] | tuple[str, ...] = ()) -> Conditions:
        """Start all, let them take turns, measure accuracies of those named, and end all."""
        workers: dict[str, Worker] = {}
        before, load, clock = machine.stolen_ticks(), machine.load(), machine.megahertz()
        reference: list[float] = []
        try:
            for name, spec in tqdm(self.specs.items(), desc=f"{label}: starting", leave=False):
                try:
                    workers[name] = Worker(spec)
                    self.ready[name] = workers[name].ready
                    self.times[name] = []
                except PeerError as e:
                    self.errors[name] = str(e)
            for _ in tqdm(range(self.rounds), desc=f"{label}: rounds", leave=False):
                reference.append(_reference())
                for name in list(workers):
                    self._turn(workers, name)
            for name in tqdm([n for n in accuracy if n in workers], desc=f"{label}: accuracy", leave=False):
                try:
                    self.top1[name] = workers[name].ask({"do": "accuracy"})["top1"]
                except PeerError as e:
                    self.errors[name] = str(e)
        finally:
            for worker in workers.values():
                worker.close()
        after = machine.stolen_ticks()
        stolen = (after[0] - before[0]) / max(1, after[1] - before[1]) if before and after else None
        moved = spread(reference)
        quiet = moved < NOISY and (stolen or 0.0) < NOISY and (load or 0.0) < 0.5 * machine.processors()
        clocks = [c for c in (clock, machine.megahertz()) if c is not None]
        return Conditions(quiet, moved, stolen, load, clocks)

    def _turn(self, workers: dict[str, Worker], name: str) -> None:
        joules = machine.energy_uj()
        try:
            answer = workers[name].ask({"do": "turn", "seconds": self.seconds, "least": self.least})
        except PeerError as e:
            self.errors[name] = str(e)
            workers.pop(name).close()
            self.times.pop(name)
            return
        self.times[name].append(answer["ms"])
        used = machine.energy_uj()
        if joules is not None and used is not None and used > joules:
            calls = len(answer["ms"]) + answer["warm"]
            self.energy.setdefault(name, []).append((used - joules) / 1e3 / calls)


def cold_start(spec: Mapping[str, Any], starts: int) -> list[dict[str, Any]]:
    """Start a worker `starts` times and end it: what each said of its start.

    Raises:
        PeerError: it cannot start.
    """
    found: list[dict[str, Any]] = []
    for _ in range(starts):
        worker = Worker(spec)
        found.append(worker.ready)
        worker.close()
    return found


def _reference() -> float:
    """Seconds of a fixed piece of work of this process (SHA-256 of 16 MiB)."""
    start = time.perf_counter()
    for _ in range(64):
        hashlib.sha256(REFERENCE).digest()
    return time.perf_counter() - start
