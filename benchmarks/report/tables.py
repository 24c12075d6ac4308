"""A group's table as text: columns, cells, the sentences around it. Markdown, HTML and the terminal show the same.

Text in it is as the results file has it: who shows it makes it safe (`bitplane.format.text`).
"""

from bitplane.benchmarks.measuring import statistics
from bitplane.benchmarks.pareto import pareto_front
from bitplane.benchmarks.peers import OWN
from bitplane.benchmarks.results import Conditions, Group, Row

TEXT = ("network", "layer", "engine", "note")
"""Columns of text; all others hold numbers."""

FRONT = ["network", "engine", "ms", "top-1", "file"]
"""Columns of a table of a Pareto front."""


def columns(g: Group) -> list[str]:
    """The columns of a group's table."""
    if any(r.gmacs is not None for r in g.rows):
        return ["layer", "engine", "ms", "G multiply-adds/s", "of the register loop", "note"]
    top1 = ["top-1"] if any(r.top1 is not None for r in g.rows) else []
    energy = ["mJ/image"] if any(r.offline and r.offline.millijoules for r in g.rows) else []
    return [
        "network", "engine", "threads", "ms", "p90", "p99", f"against {g.baseline}", *top1, "images/s", *energy, "file",
        "cold start ms", "peak MB", "note",
    ]  # fmt: skip


def cells(g: Group, r: Row) -> list[str]:
    """A row's text under `columns`."""
    values = {
        "layer": r.network,
        "network": r.network,
        "engine": r.engine,
        "threads": str(r.threads),
        "note": r.error or r.note,
        "file": f"{r.bytes:,}" if r.bytes else "",
        "top-1": "" if r.top1 is None else f"{100 * r.top1:.2f} %",
    }
    if r.stream is not None:
        values |= {"ms": statistics.text(r.stream.ms)} | {
            k: _like(v, r) for k, v in (("p90", r.stream.p90), ("p99", r.stream.p99))
        }
    if r.faster is not None:
        values[f"against {g.baseline}"] = "1x" if r.engine == g.baseline else f"{statistics.text(r.faster)}x"
    if r.offline is not None:
        values["images/s"] = statistics.text(r.offline.images_per_second)
        values["mJ/image"] = "" if r.offline.millijoules is None else f"{r.offline.millijoules:.3g}"
    if r.start is not None:
        values["cold start ms"] = f"{r.start.total:.0f}"
        values["peak MB"] = "" if r.start.peak_mb is None else f"{r.start.peak_mb:.0f}"
    if r.gmacs is not None:
        limit = next((o.gmacs for o in g.rows if o.network == r.network and o.engine == "register loop"), None)
        values["G multiply-adds/s"] = f"{r.gmacs:.0f}"
        comparable = r.engine != OWN or r.product == "popcount"  # the loop counts bits
        values["of the register loop"] = f"{100 * r.gmacs / limit:.0f} %" if limit and comparable else ""
    return [values.get(h, "") for h in columns(g)]


def _like(value: float, r: Row) -> str:
    # A percentile with as many decimals as the median beside it.
    assert r.stream is not None
    return f"{value:.{len(statistics.text(r.stream.ms).partition('.')[2])}f}"


def group_front(g: Group) -> list[Row]:
    """The rows on the Pareto front of latency and accuracy, at the smallest thread count."""
    least = min((r.threads for r in g.rows), default=0)
    return pareto_front(r for r in g.rows if r.threads == least)


def conditions_sentence(c: Conditions) -> str:
    """Whether the machine was quiet, in a sentence."""
    facts = [f"fixed work moved by {100 * c.reference_spread:.1f} %"]
    facts += [f"{100 * c.stolen:.1f} % of the processors' time went to other machines"] if c.stolen is not None else []
    facts += [f"load before {c.load_before:.1f}"] if c.load_before is not None else []
    facts += [f"clock {' to '.join(f'{m:.0f}' for m in c.megahertz)} MHz"] if c.megahertz else ["clock not readable"]
    return ("The machine was quiet: " if c.quiet else "The machine was NOT quiet: ") + ", ".join(facts) + "."


def method_sentences(g: Group) -> str:
    """Machine and method, in two sentences."""
    m, how = g.machine, g.method
    features = ", ".join(m.features) or "no features known"
    return (
        f"{g.date}, {m.cpu}, {m.processors} processors, {features}; {m.system}, Python {m.python}, governor {m.governor}. "
        f"{how.rounds:g} rounds of {1000 * how.seconds:g} ms turns; cold start: median of {how.starts:g} fresh"
        f" processes with warm disk caches; throughput in calls of {how.batch:g} images."
    )


def joint_sentence(g: Group) -> str:
    """What a group of `pareto.joint_groups` holds, in a sentence: groups of another machine are not in it."""
    return (
        f"All groups below that were measured on {g.machine.cpu}, each in a run of its own. The table holds their common"
        " Pareto front, over all engines."
    )
