"""Results of experiments: one record a finished run, merged into a JSON file, and the Markdown page generated from that file.

A results file holds runs of several machines and budgets; every table says what its figures had.
"""

import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from bitplane.documents import Kind, read_json
from bitplane.train.checkpoint import Epochs, Share, read_result
from bitplane.train.errors import CheckpointError
from bitplane.train.experiments.description import Experiment, Group, Value, matches
from bitplane.train.experiments.planning import Planned

RESULTS = Kind("a results file of `bitplane experiments`", "give another --json, or remove it", CheckpointError)


class Begun(TypedDict, total=False):
    """The run that a run started from: its top-1 accuracy and epochs, or nothing."""

    top1: Share
    epochs: Epochs


@dataclass(frozen=True)
class Record:
    """A finished run in a results file.

    Attributes:
        group: name of its group.
        axes: its value on each axis.
        epochs: passes over the training images.
        top1: accuracy of the last epoch on the test split.
        train_loss: of the last epoch.
        seconds: of training.
        device: where it ran.
        torch: version.
        init: top-1 accuracy and epochs of the run it started from; empty for a random start.
    """

    group: str
    axes: dict[str, Value]
    epochs: Epochs
    top1: Share
    train_loss: float
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    device: str
    torch: str
    init: Begun = field(default_factory=Begun)

    @property
    def key(self) -> str:
        """What a record replaces an older one by."""
        return json.dumps([self.group, self.axes, self.epochs], sort_keys=True)


@dataclass(frozen=True)
class _Document:
    title: str
    runs: list[Record]


def collect(planned: list[Planned]) -> list[Record]:
    """Records of the finished ones among `planned`."""
    records = []
    for p in planned:
        if not (p.folder / "final" / "result.json").exists():
            continue
        result = read_result(p.folder)
        begun = Begun()
        if p.start is not None:
            first = read_result(p.start)
            begun = Begun(top1=first["test_top1"], epochs=first["epochs"])
        records.append(
            Record(
                p.group.name, p.axes, result["epochs"], result["test_top1"], result["train_loss"], result["seconds"],
                result["device"], result["torch"], begun,
            )
        )  # fmt: skip
    return records


def read_records(path: Path) -> list[Record]:
    """The records of a results file; none if there is no such file.

    Raises:
        CheckpointError: it is no results file.
    """
    if not path.exists():
        return []
    return read_json(path, _Document, RESULTS).runs


def merge(old: list[Record], new: list[Record]) -> list[Record]:
    """All records, the new ones in place of old ones of the same run."""
    return list(({r.key: r for r in old} | {r.key: r for r in new}).values())


def document(experiment: Experiment, records: list[Record]) -> dict[str, Any]:
    """A results file's content."""
    return {"title": experiment.title, "runs": [asdict(r) for r in records]}


def page(experiment: Experiment, records: list[Record]) -> str:
    """The results as Markdown: for each group and budget a table, mean ± standard deviation (seeds) of the top-1 accuracy."""
    lines = [f"# {experiment.title}", "", experiment.about.strip(), ""]
    for g in experiment.groups:
        mine = [r for r in records if r.group == g.name]
        for epochs in sorted({r.epochs for r in mine}, reverse=True):
            lines += _table(experiment, g, [r for r in mine if r.epochs == epochs], epochs)
    return "\n".join(lines).rstrip() + "\n"


def _table(experiment: Experiment, g: Group, records: list[Record], epochs: int) -> Iterator[str]:
    columns = [c for c in g.axes[g.columns] if any(r.axes.get(g.columns) == c for r in records)]
    rows = [k for k in g.axes if k not in ("seed", g.columns)]
    yield from (f"## {g.name[0].upper()}{g.name[1:]}, {epochs} epoch{'s' * (epochs != 1)}", "")
    begun = [r.init for r in records if "top1" in r.init and "epochs" in r.init]
    starts = sorted({(round(100 * b["top1"], 2), b["epochs"]) for b in begun})
    if starts:
        yield "Started from " + ", ".join(f"a network of {t:.2f} % ({e} epochs)" for t, e in starts) + "."
    devices = sorted({f"{r.device}, torch {r.torch}" for r in records})
    seconds = statistics.median(r.seconds / r.epochs for r in records)
    yield from (f"{'; '.join(devices)}; {seconds:.1f} s an epoch (median).", "")
    yield "| " + " | ".join([*rows, *map(str, columns)]) + " |"
    yield "|" + "---|" * (len(rows) + len(columns))
    for values in itertools.product(*(g.axes[k] for k in rows)):
        at = dict(zip(rows, values, strict=True))
        cells = [_cell(experiment, g, records, at | {g.columns: c}) for c in columns]
        if any(cells):
            yield "| " + " | ".join([*map(str, values), *cells]) + " |"
    yield ""


def _cell(experiment: Experiment, g: Group, records: list[Record], at: dict[str, Any]) -> str:
    found = [100 * r.top1 for r in records if matches(at, r.axes)]
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    published = [r.top1 for r in experiment.references if r.group == g.name and matches(r.when, at)]
    beside = f", published {published[0]:.2f}" if published else ""
    return f"{statistics.fmean(found):.2f}{spread} ({len(found)}{beside})"
