"""A study: latency, throughput, cold start, memory, size and accuracy of packed networks and their peers, in one run.

    description -> networks -> candidates (a network in an engine) -> rounds -> rows -> Study

For each group: at each thread count all candidates take turns, one image at a time; once more at the largest thread count with
many images at hand; cold starts one by one. Each candidate is a process (`measuring/worker.py`); a file of an engine's own
format is made once (`conversion.py`). The two ways to measure are those of MLPerf Inference's single-stream and offline
scenarios at short length; the results are not MLPerf results.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bitplane.benchmarks.candidates import Candidate, Sources, layer_candidates, network_candidates, row_name
from bitplane.benchmarks.description import Description, GroupPlan, Measure
from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.images import Images
from bitplane.benchmarks.measuring import statistics
from bitplane.benchmarks.measuring.machine import describe_machine
from bitplane.benchmarks.measuring.process import cold_starts
from bitplane.benchmarks.measuring.rounds import Measured, Turns, take_turns
from bitplane.benchmarks.results import Group, Method, Offline, Row, Start, Study

OFFLINE_SECONDS = 0.25
"""Length of a turn with many images at hand."""


def run_study(
    description: Description,
    sources: Sources,
    done: Callable[[Study], None],
    *,
    only: Sequence[str] = (),
    previous: Study | None = None,
) -> Study:
    """Measure the groups of a description.

    Args:
        description: what to measure.
        sources: its files and images.
        done: called with all results so far after each group.
        only: names of groups to measure; default: all.
        previous: results whose other groups are kept.

    Raises:
        StudyError: a file that the description names is missing.
    """
    kept = {g.name: g for g in previous.groups} if previous else {}
    names = [g.name for g in description.group]
    study = Study(description.title, description.about.strip(), [])
    for g in description.group:
        if only and g.name not in only:
            continue
        kept[g.name] = measure_group(g, description.measure, sources)
        study = replace(study, groups=[kept[n] for n in names if n in kept])
        done(study)
    return study


def measure_group(g: GroupPlan, how: Measure, sources: Sources) -> Group:
    """Measure one group."""
    sources.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bitplane-study-") as temporary:
        if g.layers:
            return _measure(g, how, Images("", np.zeros((0,), np.uint8), None), layer_candidates(g))
        return _measure(g, how, *network_candidates(g, sources, Path(temporary)))


def _measure(g: GroupPlan, how: Measure, images: Images, candidates: list[Candidate]) -> Group:
    able = {c.name: c for c in candidates if not c.row.error}
    counts = [1] if g.layers else how.counts()
    rows: list[Row] = []
    conditions = None
    top1: dict[str, float] = {}
    for threads in counts:
        specs = {n: {**c.spec, "threads": threads, "purpose": "stream", "batch_size": 1} for n, c in able.items()}
        asked = tuple(specs) if images.test is not None and threads == counts[0] else ()
        label = f"{g.name}, {threads} thread{'s' * (threads > 1)}"
        found, now = take_turns(specs, Turns(how.rounds, how.seconds), label, asked)
        conditions = now if conditions is None or not now.quiet else conditions
        top1 |= found.top1
        tested = len(images.test[1]) if images.test is not None else 0
        rows += _compared([_row(c, threads, found, top1.get(c.name), tested) for c in candidates], g.base(), found)
    if not g.layers:
        rows = _with_starts(_with_offline(rows, g, how, able, counts[-1]), able, how.starts)
    assert conditions is not None
    method = Method(float(how.rounds), how.seconds, float(how.starts), float(how.batch_size))
    date = datetime.now(UTC).date().isoformat()
    return Group(g.name, date, images.name, g.base(), describe_machine(), conditions, method, rows)


def _row(c: Candidate, threads: int, found: Measured, top1: float | None, tested: int) -> Row:
    row = replace(c.row, threads=threads, error=c.row.error or found.errors.get(c.name, ""))
    if row.error or c.name not in found.times:
        return row
    ready = found.ready[c.name]
    measured = statistics.stream(found.times[c.name])
    work = ready["multiply_adds"]
    return replace(
        row,
        version=ready["version"],
        settings=ready["settings"],
        note=ready["note"],
        top1=top1,
        images=tested if top1 is not None else 0,
        stream=measured,
        gmacs=work / measured.ms.value / 1e6 if work else None,
        product=ready["product"],
    )


def _compared(rows: list[Row], base: str, found: Measured) -> list[Row]:
    """Rows of a thread count with their factor against the baseline of the same network, or of the group's only one."""
    names = {r.network: row_name(r) for r in rows if r.engine == base and r.stream is not None}
    out: list[Row] = []
    for r in rows:
        against = names.get(r.network) or (next(iter(names.values())) if len(names) == 1 else None)
        if r.stream is not None and against in found.times:
            r = replace(r, faster=statistics.ratio(found.times[against], found.times[row_name(r)]))
        out.append(r)
    return out


def _with_offline(rows: list[Row], g: GroupPlan, how: Measure, able: dict[str, Candidate], threads: int) -> list[Row]:
    alive = {row_name(r) for r in rows if r.stream is not None}
    said = {"threads": threads, "purpose": "offline", "batch_size": how.batch_size}
    specs = {n: {**c.spec, **said} for n, c in able.items() if n in alive}
    found, _ = take_turns(specs, Turns(max(3, how.rounds // 2), OFFLINE_SECONDS, least=1), f"{g.name}, offline")
    out: list[Row] = []
    for r in rows:
        name = row_name(r)
        if r.threads == threads and (times := found.times.get(name)):
            speed = statistics.median([1e3 * how.batch_size / float(np.median(t)) for t in times])
            energy = found.energy.get(name)
            each = float(np.median(energy)) / how.batch_size if energy else None
            r = replace(r, offline=Offline(speed, how.batch_size, threads, each))
        elif r.threads == threads and (problem := found.errors.get(name)):
            r = replace(r, note=_joined(r.note, f"offline: {problem}"))
        out.append(r)
    return out


def _joined(*notes: str) -> str:
    return "; ".join(n for n in notes if n)


def _with_starts(rows: list[Row], able: dict[str, Candidate], starts: int) -> list[Row]:
    out: list[Row] = []
    first = rows[0].threads
    for r in rows:
        out.append(r)
        if r.stream is None or r.threads != first or starts < 1:
            continue
        spec = able[row_name(r)].spec
        try:
            said = cold_starts({**spec, "threads": first, "purpose": "stream", "batch_size": 1}, starts)
        except PeerError as e:
            out[-1] = replace(r, note=_joined(r.note, f"cold start: {e}"))
            continue
        mid = {k: float(np.median([s[k] for s in said])) for k in ("imports", "load", "first", "total")}
        peaks = [s["peak_mb"] for s in said if s["peak_mb"] is not None]
        out[-1] = replace(r, start=Start(**mid, peak_mb=float(np.median(peaks)) if peaks else None))
    return out
