"""A study's results: what its JSON file holds. The schema `docs/study/schema.json` is generated from these classes.

    Study -> Group (networks measured together) -> Row (an engine on a file at a thread count)

Times are milliseconds, sizes bytes, shares 0 to 1. What could not be measured is null, never guessed; a row that failed says
why in `error`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bitplane.benchmarks.errors import StudyError
from bitplane.documents import Kind, read_json

VERSION = 1
RESULTS = Kind("a study's results", "`bitplane study` writes one", StudyError)


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % bootstrap interval over rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stream:
    """One image after the other, batch 1: milliseconds a call.

    Attributes:
        ms: median of the rounds' medians.
        p90: 90th percentile of all calls.
        p99: 99th percentile of all calls.
        calls: calls timed.
        rounds: rounds.
    """

    ms: Estimate
    p90: float
    p99: float
    calls: int
    rounds: int


@dataclass(frozen=True)
class Offline:
    """All images at hand: images a second in calls of `batch` images.

    Attributes:
        images_per_second: median over rounds.
        batch: images handed over at once.
        threads: threads used.
        millijoules: energy of the package for one image, null where no counter can be read.
    """

    images_per_second: Estimate
    batch: int
    threads: int
    millijoules: float | None = None


@dataclass(frozen=True)
class Start:
    """A fresh process, medians over several: milliseconds, and megabytes (10^6 bytes).

    Attributes:
        imports: importing the engine.
        load: opening the file: parsing, optimizing, compiling.
        first: the first call.
        total: from the start of the process to the first result.
        peak_mb: largest resident memory up to the first result.
    """

    imports: float
    load: float
    first: float
    total: float
    peak_mb: float | None


@dataclass(frozen=True)
class Row:
    """An engine on a network at a thread count.

    Attributes:
        network: name of the network.
        engine: name of the engine, as in `bitplane.benchmarks.peers`.
        threads: threads of one call.
        weights: level set of the inner weights, "float" or "int8".
        activations: bits of the activations.
        file: name of the file it runs.
        bytes: of that file.
        version: of the engine.
        settings: what was set in it.
        top1: accuracy on `images` test images by this engine; null without labelled images.
        images: test images.
        stream: latency.
        offline: throughput; measured once, at the largest thread count.
        start: cold start.
        faster: times faster than the group's baseline, single stream, paired within rounds.
        gmacs: giga multiply-adds a second, of rows that are one layer.
        product: what multiplies in a layer of bitplane: "popcount", "look-up" or "bytes"; empty elsewhere.
        note: what a reader must know, such as that its values are wrong.
        error: why there is no measurement; empty if there is one.
    """

    network: str
    engine: str
    threads: int
    weights: str
    activations: int
    file: str
    bytes: int
    version: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    top1: float | None = None
    images: int = 0
    stream: Stream | None = None
    offline: Offline | None = None
    start: Start | None = None
    faster: Estimate | None = None
    gmacs: float | None = None
    product: str = ""
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class Conditions:
    """Whether the machine was quiet.

    Attributes:
        quiet: nothing below says otherwise.
        reference_spread: interquartile range over median of the rounds' times of a fixed piece of work.
        stolen: share of the processors' time that the hypervisor gave to others; null where it cannot be read.
        load_before: processes that wanted to run in the minute before.
        megahertz: clock of the first processor before and after; empty where it cannot be read.
    """

    quiet: bool
    reference_spread: float
    stolen: float | None
    load_before: float | None
    megahertz: list[float]


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    cpu: str
    features: list[str]
    processors: int
    memory_gb: float
    system: str
    python: str
    governor: str


@dataclass(frozen=True)
class Method:
    """How long was measured: turns of each engine, seconds of a turn, cold starts, and images of an offline call."""

    rounds: float
    seconds: float
    starts: float
    batch: float


@dataclass(frozen=True)
class Group:
    """Networks and engines that took turns.

    Attributes:
        name: of the group.
        date: day of the measurement (UTC).
        data: data set of the accuracies; empty if there are none.
        baseline: engine that `faster` refers to.
        machine: where.
        conditions: whether it was quiet.
        method: how long.
        rows: the measurements.
    """

    name: str
    date: str
    data: str
    baseline: str
    machine: Machine
    conditions: Conditions
    method: Method
    rows: list[Row]


@dataclass(frozen=True)
class Study:
    """A results file."""

    title: str
    about: str
    groups: list[Group]
    version: int = VERSION


def read_study(path: Path) -> Study:
    """Read and check a results file.

    Raises:
        StudyError: missing, or not a results file of this version.
    """
    study = read_json(path, Study, RESULTS)
    if study.version != VERSION:
        raise StudyError(f"{path}: `version` is {study.version}, this bitplane reads {VERSION}; measure again")
    return study


def one_group(g: Group, title: str = "bitplane bench") -> Study:
    """Results that hold one group."""
    return Study(title, "", [g])


def to_json(study: Study) -> str:
    """A results file's text."""
    return msgspec.json.format(msgspec.json.encode(study), indent=1).decode() + "\n"


def schema() -> dict[str, Any]:
    """JSON schema of a results file."""
    return msgspec.json.schema(Study)
