"""Figures in Markdown files: tables between markers, generated from a study, so that no number is typed by hand.

<!-- study: NAME OF A GROUP -->         every engine at the smallest thread count, fastest first
<!-- front: NAME OF A GROUP -->         its Pareto front, and the fastest row of every other library
<!-- layers: NAME OF A GROUP -->        a group of single layers
<!-- networks: NAME OF A GROUP -->      bitplane's own files: bytes and accuracy
...
<!-- end -->
"""

import re

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.measuring import statistics
from bitplane.benchmarks.pareto import pareto_front
from bitplane.benchmarks.peers import OWN
from bitplane.benchmarks.report.markdown import conditions, group_table, table
from bitplane.benchmarks.report.tables import columns
from bitplane.benchmarks.results import Group, Row, Study
from bitplane.format.text import markdown as safe
from bitplane.format.text import plain

BLOCK = re.compile(r"(<!-- (study|front|layers|networks): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def refresh(text: str, study: Study) -> str:
    """The text with every block generated anew.

    Raises:
        StudyError: a block names a group that the study does not have.
    """
    groups = {g.name: g for g in study.groups}

    def block(found: re.Match[str]) -> str:
        if found[3] not in groups:
            raise StudyError(f"no group of the study is called '{found[3]}'; there are {', '.join(groups)}")
        make = {"study": _engines, "front": _front, "layers": _layers, "networks": _networks}[found[2]]
        return found[1] + "\n".join(make(groups[found[3]])) + "\n" + found[4]

    return BLOCK.sub(block, text)


def _engines(g: Group) -> list[str]:
    wanted = ["network", "engine", "ms", f"against {g.baseline}", "top-1", "file", "cold start ms", "peak MB"]
    return _table(g, _by_latency(g), wanted)


def _front(g: Group) -> list[str]:
    rows = _by_latency(g)
    front = {id(r) for r in pareto_front(rows)}
    fastest = {r.engine.split()[0]: id(r) for r in reversed(rows) if r.engine != OWN}  # "OpenVINO int8": OpenVINO
    rows = [r for r in rows if id(r) in front | set(fastest.values())]
    return _table(g, rows, ["network", "engine", "ms", f"against {g.baseline}", "top-1", "file"])


def _by_latency(g: Group) -> list[Row]:
    """The rows of the smallest thread count, fastest first."""
    least = min(r.threads for r in g.rows)
    timed = [(r.stream.ms.value, r) for r in g.rows if r.threads == least and r.stream is not None]
    return [r for _, r in sorted(timed, key=lambda t: t[0])]


def _table(g: Group, rows: list[Row], wanted: list[str]) -> list[str]:
    least = rows[0].threads
    m = g.machine
    threads = "one thread" if least == 1 else f"{least} threads"
    features = ", ".join(f for f in m.features if f in ("avx2", "avx512f", "avx512_vnni", "avx512_vpopcntdq", "asimddp"))
    head = f"{safe(f'{g.date}, {m.cpu} ({features}), batch 1, {threads}.')} {conditions(g.conditions)}"
    return ["", head, "", *group_table(g, rows, [w for w in wanted if w in columns(g)]), ""]


def _layers(g: Group) -> list[str]:
    rows = [r for r in g.rows if r.engine in (OWN, "bnn-lab") and r.gmacs is not None]
    return ["", *group_table(g, rows, ["layer", "engine", "G multiply-adds/s", "of the register loop"]), ""]


def _networks(g: Group) -> list[str]:
    least = min(r.threads for r in g.rows)
    rows = [r for r in g.rows if r.threads == least and r.engine == OWN]
    body = [[_code(r.file), *map(safe, (r.weights, _bits(r), f"{r.bytes:,}", _top1(r), _ms(r)))] for r in rows]
    return ["", *table(["file", "weights", "activations", "bytes", "top-1", "ms"], body), ""]


def _code(text: str) -> str:
    return f"`{plain(text).replace('`', '').replace('|', '')}`"


def _bits(r: Row) -> str:
    return f"{r.activations} bit{'s' * (r.activations > 1)}"


def _top1(r: Row) -> str:
    return "" if r.top1 is None else f"{100 * r.top1:.2f} %"


def _ms(r: Row) -> str:
    return "" if r.stream is None else statistics.text(r.stream.ms)
