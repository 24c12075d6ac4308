"""`bitplane recommend`."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from bitplane.cli.options import Bytes, Count, JsonFile, Percent
from bitplane.cli.output import UsageError, say, write_json


@dataclass(frozen=True)
class Options:
    """Say which network to take: the most accurate within a latency, or the fastest of an accuracy.

    Attributes:
        study: results of `bitplane study`.
        latency: largest median latency of one image, such as 0.2ms or 300us.
        accuracy: least top-1 accuracy in percent; of those that have it, the fastest is named.
        size: largest file in bytes.
        threads: thread count.
        json: write the answer to this file.
    """

    study: Path = Path("docs/study/study.json")
    latency: str | None = None
    accuracy: Percent | None = None
    size: Bytes | None = None
    threads: Count = 1
    json: JsonFile = None


def run(options: Options) -> None:
    """Choose, and print one line for each data set."""
    from bitplane.benchmarks.pareto import recommend
    from bitplane.benchmarks.report.tables import cells, columns
    from bitplane.benchmarks.results import read_study

    chosen = recommend(
        read_study(options.study),
        latency_ms=None if options.latency is None else milliseconds(options.latency),
        accuracy=None if options.accuracy is None else options.accuracy / 100,
        size=options.size,
        threads=options.threads,
    )
    for g, row in chosen:
        shown = dict(zip(columns(g), cells(g, row), strict=True))
        ms, top1 = shown["ms"], shown["top-1"]
        say(f"{g.name}: {row.network} ({row.file}), {ms} ms, {top1}, {row.bytes:,} bytes, on {g.machine.cpu}")
    write_json(options.json, [{"group": g.name, **asdict(row)} for g, row in chosen])


def milliseconds(text: str) -> float:
    """A duration such as 0.2ms, 300us or 1s.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(us|ms|s)", text.strip(), re.ASCII)
    if not found or not float(found[1]) > 0:
        raise UsageError(f"--latency {text}: must be a duration such as 0.2ms, 300us or 1s")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
