"""Round robin: every engine runs for a moment in every round, so that a busy moment of the machine hits all of them."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.measuring import machine
from bitplane.benchmarks.measuring.process import Worker
from bitplane.benchmarks.measuring.statistics import NOISY, spread
from bitplane.benchmarks.results import Conditions

FIXED_WORK = bytes(1 << 18)


@dataclass(frozen=True)
class Turns:
    """How often and how long each runs.

    Attributes:
        rounds: turns each gets.
        seconds: length of a turn.
        least: calls in a turn at least.
    """

    rounds: int
    seconds: float
    least: int = 3


@dataclass
class Measured:
    """What the turns gave, by the names of the workers.

    Attributes:
        ready: what each said of its start.
        times: milliseconds of the calls of each round; those that died are not in it.
        energy: millijoules of a call in each round, warm-up included, where there is a counter.
        top1: accuracy, 0 to 1, of those that were asked for it.
        errors: why it failed.
    """

    ready: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: dict[str, list[list[float]]] = field(default_factory=dict)
    energy: dict[str, list[float]] = field(default_factory=dict)
    top1: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def take_turns(
    specs: Mapping[str, Mapping[str, Any]], turns: Turns, label: str, accuracy: Iterable[str] = ()
) -> tuple[Measured, Conditions]:
    """Start all, let them take turns, measure accuracies, and end all.

    Args:
        specs: name to what its worker is told.
        turns: how often and how long.
        label: of the progress bars.
        accuracy: names whose accuracy is measured too.

    Returns:
        The measurements, and whether the machine was quiet.
    """
    found, workers = Measured(), dict[str, Worker]()
    before, load, clock = machine.stolen_ticks(), machine.load(), machine.megahertz()
    reference: list[float] = []
    try:
        for name, spec in tqdm(specs.items(), desc=f"{label}: starting", leave=False):
            try:
                workers[name] = Worker(spec)
                found.ready[name], found.times[name] = workers[name].ready, []
            except PeerError as e:
                found.errors[name] = str(e)
        for _ in tqdm(range(turns.rounds), desc=f"{label}: rounds", leave=False):
            reference.append(_fixed_work())
            for name in list(workers):
                try:
                    take_turn(found, name, workers[name], turns)
                except PeerError as e:
                    found.errors[name] = str(e)
                    found.times.pop(name)
                    workers.pop(name).close()
        for name in tqdm([n for n in accuracy if n in workers], desc=f"{label}: accuracy", leave=False):
            try:
                found.top1[name] = workers[name].ask({"do": "accuracy"})["top1"]
            except PeerError as e:
                found.errors[name] = str(e)
    finally:
        for worker in workers.values():
            worker.close()
    after = machine.stolen_ticks()
    stolen = (after[0] - before[0]) / max(1, after[1] - before[1]) if before and after else None
    moved = spread(reference)
    quiet = moved < NOISY and (stolen or 0.0) < NOISY and (load or 0.0) < 0.5 * machine.processors()
    clocks = [c for c in (clock, machine.megahertz()) if c is not None]
    return found, Conditions(quiet, moved, stolen, load, clocks)


def take_turn(found: Measured, name: str, worker: Worker, turns: Turns) -> None:
    """One turn of one worker, written into `found`.

    Raises:
        PeerError: it died.
    """
    before = machine.energy_uj()
    answer = worker.ask({"do": "turn", "seconds": turns.seconds, "least": turns.least})
    found.times.setdefault(name, []).append(answer["ms"])
    after = machine.energy_uj()
    if before is not None and after is not None and after > before:
        calls = len(answer["ms"]) + answer["warm"]
        found.energy.setdefault(name, []).append((after - before) / 1e3 / calls)


def _fixed_work() -> float:
    """Seconds of a fixed piece of work of this process (SHA-256 of 16 MiB)."""
    start = time.perf_counter()
    for _ in range(64):
        hashlib.sha256(FIXED_WORK).digest()
    return time.perf_counter() - start
