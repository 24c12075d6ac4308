"""The Pareto front of latency and accuracy, and which network to take."""

from collections.abc import Iterable
from dataclasses import replace

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.peers import OWN
from bitplane.benchmarks.results import Group, Row, Study


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """Rows that no other row beats in both latency and accuracy, fastest first; rows that lack either are left out."""
    known = [(r.stream.ms.value, -r.top1, r) for r in rows if r.stream is not None and r.top1 is not None and not r.error]
    found: list[Row] = []
    for _, _, r in sorted(known, key=lambda k: k[:2]):
        if not found or r.top1 > found[-1].top1:  # type: ignore[operator]
            found.append(r)
    return found


def joint_groups(study: Study) -> list[Group]:
    """Groups whose networks can be compared, as one: with accuracies on the same data, measured on the same machine.

    Returns:
        A group for each data set and machine that several groups share, in the study's order: named after the data, with the
        rows of all, the conditions of one that was not quiet if there is one, and no baseline (factors hold within a group).
    """
    together: dict[tuple[str, str], list[Group]] = {}
    for g in study.groups:
        if g.data:
            together.setdefault((g.data, g.machine.cpu), []).append(g)
    return [
        replace(
            groups[0],
            name=f"All networks on {data}",
            date=max(g.date for g in groups),
            baseline="",
            conditions=next((g.conditions for g in groups if not g.conditions.quiet), groups[0].conditions),
            rows=[r for g in groups for r in g.rows],
        )
        for (data, _), groups in together.items()
        if len(groups) > 1
    ]


def recommend(
    study: Study, *, latency_ms: float | None = None, accuracy: float | None = None, size: int | None = None, threads: int = 1
) -> list[tuple[Group, Row]]:
    """What to take for each data set: the most accurate network within the limits, or the fastest that is accurate enough.

    Args:
        study: the results.
        latency_ms: the median of one image takes at most this long.
        accuracy: top-1 accuracy of at least this, 0 to 1; then the fastest is taken.
        size: the file has at most this many bytes.
        threads: thread count.

    Returns:
        (the group it was measured in, row), one for each data set and machine, of bitplane's own networks.

    Raises:
        StudyError: nothing in the study is within the limits; the message names the nearest.
    """
    found: list[tuple[Group, Row]] = []
    whole = joint_groups(study)
    shared = {(g.data, g.machine.cpu) for g in whole}
    for g in [*whole, *(g for g in study.groups if (g.data, g.machine.cpu) not in shared)]:
        rows = [r for r in g.rows if r.engine == OWN and r.threads == threads]
        able = pareto_front(r for r in rows if size is None or r.bytes <= size)
        able = [r for r in able if latency_ms is None or (r.stream and r.stream.ms.value <= latency_ms)]
        able = [r for r in able if accuracy is None or (r.top1 is not None and r.top1 >= accuracy)]
        if able:
            row = able[0] if accuracy is not None else able[-1]
            found.append((next(g for g in study.groups if any(r is row for r in g.rows)), row))
    if not found:
        raise StudyError(_nearest(study, threads))
    return found


def _nearest(study: Study, threads: int) -> str:
    rows = [r for g in study.groups for r in g.rows if r.engine == OWN and r.threads == threads]
    known = pareto_front(rows)
    if not known:
        return f"the study has no network of known latency and accuracy at {threads} thread{'s' * (threads > 1)}"
    ends = [
        f"{r.network}: {r.stream.ms.value:.3g} ms, {100 * r.top1:.2f} %" for r in (known[0], known[-1]) if r.stream and r.top1
    ]
    return f"no network is within these limits; the fastest and the most accurate are {' and '.join(dict.fromkeys(ends))}"
