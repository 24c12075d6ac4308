"""A study as Markdown: generated from its JSON file alone."""

from collections.abc import Mapping, Sequence

from bitplane.benchmarks.pareto import joint_groups
from bitplane.benchmarks.report.tables import (
    FRONT,
    cells,
    columns,
    conditions_sentence,
    group_front,
    joint_sentence,
    method_sentences,
)
from bitplane.benchmarks.results import Conditions, Group, Row, Study
from bitplane.format.text import markdown as safe

LEGEND = [
    "Times are medians of interleaved rounds. Every figure has the digits that its 95 % bootstrap interval over rounds",
    "supports. A factor compares two engines within the same rounds, at the same thread count. **Bold**: on the Pareto front",
    "of latency and accuracy at the smallest thread count. The method is that of MLPerf's single-stream and offline scenarios,",
    "at short length; these are not MLPerf results.",
]


def markdown(study: Study, pictures: Mapping[str, str] | None = None) -> str:
    """The whole page.

    Args:
        study: the results.
        pictures: file names of pictures by the names of their groups.
    """
    pictures = pictures or {}
    lines = [f"# {safe(study.title)}", "", *[safe(line, 10_000) for line in study.about.splitlines()], "", *LEGEND, ""]
    lines = lines if study.about else [*lines[:2], *lines[3:]]
    for g in joint_groups(study):
        lines += [f"## {safe(g.name)}", "", safe(joint_sentence(g)), "", *_picture(g, pictures)]
        lines += [*group_table(g, group_front(g), FRONT), ""]
    for g in study.groups:
        lines += [f"## {safe(g.name)}", "", safe(method_sentences(g), 2000), "", conditions(g.conditions), ""]
        lines += [*_picture(g, pictures), *group_table(g, g.rows, columns(g)), "", *_settings(g), ""]
    return "\n".join(lines).rstrip() + "\n"


def conditions(c: Conditions) -> str:
    """Whether the machine was quiet; if it was not, in bold."""
    return safe(conditions_sentence(c)).replace("The machine was NOT quiet", "**The machine was NOT quiet**")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, of cells that are Markdown already."""
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(r)} |" for r in rows)]


def group_table(g: Group, rows: Sequence[Row], chosen: Sequence[str]) -> list[str]:
    """Lines of a table of some rows and columns of a group; the first cell of rows on its Pareto front is bold."""
    best = {id(r) for r in group_front(g)}
    at = [columns(g).index(c) for c in chosen]
    body: list[list[str]] = []
    for r in rows:
        texts = [safe(text) for text in cells(g, r)]
        first, *others = [texts[i] for i in at]
        body.append([f"**{first}**" if id(r) in best else first, *others])
    return table([safe(c) for c in chosen], body)


def _picture(g: Group, pictures: Mapping[str, str]) -> list[str]:
    return [f"![{safe(g.name)}]({pictures[g.name]})", ""] if g.name in pictures else []


def _settings(g: Group) -> list[str]:
    seen: dict[str, str] = {}
    for r in g.rows:
        if r.stream is not None and r.engine not in seen:
            given = ", ".join(f"{k} {v}" for k, v in r.settings.items())
            about = f"{r.engine}{' ' + _short(r.version) if r.version else ''}{': ' + given if given else ''}"
            seen[r.engine] = f"- {safe(about, 2000)}"
    return ["Engines and settings:", "", *seen.values()] if seen else []


def _short(version: str) -> str:
    # OpenVINO's "2026.4.1-22982-e213a147257-releases/2026/4" is 2026.4.1.
    return version.partition("-")[0]
