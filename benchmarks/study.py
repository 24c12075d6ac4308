"""A study: latency, throughput, cold start, memory, size and accuracy of packed networks and their peers, in one run.

    description -> networks -> contestants (a network in an engine) -> contests (rounds) -> rows -> Study

For each group: at each thread count a contest of all contestants, one image at a time; one more at the largest thread count
with many images at hand; cold starts one by one. Each contestant is a process (`worker.py`); a file of an engine's own format
is made once (`forms.py`). The two ways to measure are those of MLPerf Inference's single-stream and offline scenarios at short
length; the results are not MLPerf results.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bitplane.benchmarks import forms, statistics
from bitplane.benchmarks.contest import Contest, cold_start
from bitplane.benchmarks.description import Description, GroupPlan, Measure, files
from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.machine import describe_machine
from bitplane.benchmarks.networks import CALIBRATION, Images, Network, find_networks
from bitplane.benchmarks.peers import ENGINES, LAYER_ENGINES, Engine
from bitplane.benchmarks.results import Group, Offline, Row, Start, Study

OFFLINE_SECONDS = 0.25
FLOAT = "float32"


@dataclass(frozen=True)
class Contestant:
    """A network in an engine: a row, but for the thread count and the measurements.

    Attributes:
        row: what is known before measuring.
        spec: what its worker is told, but for threads, purpose and batch.
    """

    row: Row
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Unique in a group."""
        return f"{self.row.network} | {self.row.engine}"


def run_study(
    description: Description,
    folder: Path,
    work: Path,
    load: Callable[[str], Images],
    done: Callable[[Study], None],
    *,
    raw: Callable[[str], Any] | None = None,
    only: Sequence[str] = (),
    previous: Study | None = None,
) -> Study:
    """Measure the groups of a description.

    Args:
        description: what to measure.
        folder: what its paths are relative to.
        work: folder for files that are made; what is there is used again.
        load: images of a data set's name.
        done: called with all results so far after each group.
        raw: data set of a name, for groups that train.
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
        kept[g.name] = measure_group(g, description.measure, folder, work, load, raw)
        study = replace(study, groups=[kept[n] for n in names if n in kept])
        done(study)
    return study


def measure_group(
    g: GroupPlan,
    how: Measure,
    folder: Path,
    work: Path,
    load: Callable[[str], Images],
    raw: Callable[[str], Any] | None = None,
) -> Group:
    """Measure one group; the arguments are those of `run_study`."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bitplane-study-") as temporary:
        if g.layers:
            images, contestants = Images("", np.zeros((0,), np.uint8), None), layer_contestants(g)
        else:
            images, contestants = _network_contestants(g, folder, work, Path(temporary), load, raw)
        return _measure(g, how, images, contestants)


def _network_contestants(
    g: GroupPlan, folder: Path, work: Path, temporary: Path, load: Callable[[str], Images], raw: Callable[[str], Any] | None
) -> tuple[Images, list[Contestant]]:
    networks, twin = find_networks(g, folder, work, raw or load)
    images = load(g.data) if g.data else random_images(networks[0].shape)
    paths = {"images": images.calibration[:CALIBRATION]}
    if images.test is not None:
        paths |= {"test_images": images.test[0], "test_labels": images.test[1]}
    for name, value in paths.items():
        np.save(temporary / f"{name}.npy", value)
    common = {name: str(temporary / f"{name}.npy") for name in paths}
    shared = {f.resolve() for f in files(folder, g.shared, f"group '{g.name}'")}
    found: list[Contestant] = []
    for engine_name in g.engines or ENGINES:
        engine = ENGINES[engine_name]
        if engine.form in ("packed", "inlined"):
            mine = networks if engine.module == "own" else [n for n in networks if n.file.resolve() in shared]
            found += [_contestant(n.name, n.weights, n.activations, n.file, engine_name, work, common) for n in mine]
        elif twin is not None:
            weights, bits = (FLOAT, 32) if engine.form in ("float", "tflite") else ("int8", 8)
            found.append(_contestant(_twin_name(networks), weights, bits, twin, engine_name, work, common))
    return images, found


def _twin_name(networks: list[Network]) -> str:
    names = {n.name.partition(" ")[0] for n in networks}
    return names.pop() if len(names) == 1 else "float twin"


def random_images(shape: tuple[int, ...]) -> Images:
    """Random pixels, for latency only."""
    return Images("", np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8), None)


def _contestant(
    network: str, weights: str, bits: int, source: Path, engine_name: str, work: Path, common: dict[str, str]
) -> Contestant:
    engine = ENGINES[engine_name]
    row = Row(network, engine_name, 0, weights, bits, source.name, source.stat().st_size)
    if missing := missing_packages(engine):
        return Contestant(replace(row, error=f"not installed: pip install {missing}", bytes=0, file=""), {})
    try:
        file = forms.make_form(engine.form, source, Path(common["images"]), work)
    except PeerError as e:
        return Contestant(replace(row, error=str(e), bytes=0, file=""), {})
    spec = {"module": engine.module, "variant": engine.variant, "file": str(file), **common}
    return Contestant(replace(row, file=file.name, bytes=forms.size(file)), spec)


def layer_contestants(g: GroupPlan) -> list[Contestant]:
    """Every engine on every layer; see `peers/layers.py`."""
    found = []
    for layer in g.layers:
        levels, _, bits = layer.partition(" ")[0].partition("/")
        for name in g.engines or LAYER_ENGINES:
            engine = LAYER_ENGINES[name]
            if not re.fullmatch(engine.takes, layer.partition(" ")[0]):
                continue
            row = Row(f"3x3 {layer}", name, 0, levels, int(bits), "", 0)
            missing = missing_packages(engine)
            spec = {"module": engine.module, "variant": engine.variant, "file": "", "layer": layer, "images": ""}
            found.append(Contestant(replace(row, error=f"not installed: pip install {missing}" if missing else ""), spec))
    return found


def missing_packages(engine: Engine) -> str:
    """Packages that an engine needs and that are not installed."""
    from importlib.metadata import PackageNotFoundError, version

    missing = []
    for package in engine.install.split():
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    return " ".join(missing)


def _measure(g: GroupPlan, how: Measure, images: Images, contestants: list[Contestant]) -> Group:
    able = {c.name: c for c in contestants if not c.row.error}
    counts = [1] if g.layers else how.counts()
    rows: list[Row] = []
    conditions = None
    top1: dict[str, float] = {}
    for threads in counts:
        specs = {n: {**c.spec, "threads": threads, "purpose": "stream", "batch": 1} for n, c in able.items()}
        contest = Contest(specs, how.rounds, how.seconds)
        asked = tuple(specs) if images.test is not None and threads == counts[0] else ()
        now = contest.run(f"{g.name}, {threads} thread{'s' * (threads > 1)}", asked)
        conditions = now if conditions is None or not now.quiet else conditions
        top1 |= contest.top1
        rows += [_row(c, threads, contest, top1, images) for c in contestants]
        rows = _compared(rows, g.base(), contest, threads)
    if not g.layers:
        rows = _with_starts(_with_offline(rows, g, how, able, counts[-1]), able, how.starts)
    assert conditions is not None
    method = {
        k: float(v) for k, v in (("rounds", how.rounds), ("seconds", how.seconds), ("starts", how.starts), ("batch", how.batch))
    }
    date = datetime.now(UTC).date().isoformat()
    return Group(g.name, date, images.name, g.base(), describe_machine(), conditions, method, rows)


def _row(c: Contestant, threads: int, contest: Contest, top1: dict[str, float], images: Images) -> Row:
    row = replace(c.row, threads=threads, error=c.row.error or contest.errors.get(c.name, ""))
    if row.error or c.name not in contest.times:
        return row
    ready = contest.ready[c.name]
    measured = statistics.stream(contest.times[c.name])
    work = ready["multiply_adds"]
    return replace(
        row,
        version=ready["version"],
        settings=ready["settings"],
        note=ready["note"],
        top1=top1.get(c.name),
        images=len(images.test[1]) if images.test is not None and c.name in top1 else 0,
        stream=measured,
        gmacs=work / measured.ms.value / 1e6 if work else None,
    )


def _compared(rows: list[Row], base: str, contest: Contest, threads: int) -> list[Row]:
    """Rows of this thread count with their factor against the baseline of the same network, or of the group's only one."""
    names = {r.network: f"{r.network} | {r.engine}" for r in rows if r.engine == base and r.stream is not None}
    out = []
    for r in rows:
        against = names.get(r.network) or (next(iter(names.values())) if len(names) == 1 else None)
        name = f"{r.network} | {r.engine}"
        if r.threads == threads and r.stream is not None and against in contest.times:
            r = replace(r, faster=statistics.ratio(contest.times[against], contest.times[name]))
        out.append(r)
    return out


def _with_offline(rows: list[Row], g: GroupPlan, how: Measure, able: dict[str, Contestant], threads: int) -> list[Row]:
    alive = {f"{r.network} | {r.engine}" for r in rows if r.stream is not None}
    specs = {n: {**c.spec, "threads": threads, "purpose": "offline", "batch": how.batch} for n, c in able.items() if n in alive}
    contest = Contest(specs, max(3, how.rounds // 2), OFFLINE_SECONDS, least=1)
    contest.run(f"{g.name}, offline")
    out = []
    for r in rows:
        times = contest.times.get(f"{r.network} | {r.engine}")
        if times and r.threads == threads:
            speed = statistics.median([1e3 * how.batch / float(np.median(t)) for t in times])
            energy = contest.energy.get(f"{r.network} | {r.engine}")
            each = float(np.median(energy)) / how.batch if energy else None
            r = replace(r, offline=Offline(speed, how.batch, threads, each))
        elif r.threads == threads and (problem := contest.errors.get(f"{r.network} | {r.engine}")):
            r = replace(r, note=_joined(r.note, f"offline: {problem}"))
        out.append(r)
    return out


def _joined(*notes: str) -> str:
    return "; ".join(n for n in notes if n)


def _with_starts(rows: list[Row], able: dict[str, Contestant], starts: int) -> list[Row]:
    out: list[Row] = []
    first = rows[0].threads
    for r in rows:
        out.append(r)
        if r.stream is None or r.threads != first or starts < 1:
            continue
        spec = able[f"{r.network} | {r.engine}"].spec
        try:
            said = cold_start({**spec, "threads": first, "purpose": "stream", "batch": 1}, starts)
        except PeerError as e:
            out[-1] = replace(r, note=_joined(r.note, f"cold start: {e}"))
            continue
        mid = {k: float(np.median([s[k] for s in said])) for k in ("imports", "load", "first", "total")}
        peaks = [s["peak_mb"] for s in said if s["peak_mb"] is not None]
        out[-1] = replace(r, start=Start(**mid, peak_mb=float(np.median(peaks)) if peaks else None))
    return out
