"""A study's report: Markdown, an HTML page and pictures, made from the results alone."""

import re
from collections.abc import Sequence

from bitplane.benchmarks.pareto import joint_groups
from bitplane.benchmarks.results import Study, to_json


def report_files(study: Study) -> dict[str, bytes]:
    """All files of a report by name: study.json, study.md, study.html, and a picture for each group with accuracies."""
    from bitplane.benchmarks.report.html import html
    from bitplane.benchmarks.report.markdown import markdown
    from bitplane.benchmarks.report.plot import draw, has_plot

    drawn = {g.name: g for g in [*joint_groups(study), *study.groups] if has_plot(g)}
    names = picture_names(list(drawn))
    pages = {"study.json": to_json(study), "study.md": markdown(study, names), "study.html": html(study)}
    return {name: text.encode() for name, text in pages.items()} | {names[name]: draw(g) for name, g in drawn.items()}


def picture_names(groups: Sequence[str]) -> dict[str, str]:
    """Group name to the name of its picture, each another one."""
    found: dict[str, str] = {}
    for group in groups:
        stem = re.sub(r"[^a-z0-9]+", "-", group.lower())[:80].strip("-") or "group"
        taken, count = set(found.values()), 1
        while (name := f"{stem}{f'-{count}' if count > 1 else ''}.png") in taken:
            count += 1
        found[group] = name
    return found
