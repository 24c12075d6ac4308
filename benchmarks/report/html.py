"""A study as one HTML page that needs no network: tables, and interactive plots (Bokeh, its script inside the page)."""

from bokeh.embed import components
from bokeh.models import BasicTickFormatter, ColumnDataSource, FactorRange, FixedTicker, HoverTool
from bokeh.palettes import Category20
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment

from bitplane.benchmarks.measuring import statistics
from bitplane.benchmarks.pareto import joint_groups
from bitplane.benchmarks.peers import OWN
from bitplane.benchmarks.report.plot import has_plot
from bitplane.benchmarks.report.tables import (
    FRONT,
    cells,
    columns,
    conditions_sentence,
    group_front,
    joint_sentence,
    method_sentences,
)
from bitplane.benchmarks.results import Group, Row, Study
from bitplane.format.text import plain

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ study.title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 7px; text-align: left; white-space: nowrap; }
td.note { white-space: normal; max-width: 22rem; }
th { position: sticky; top: 0; background: #fff; cursor: pointer; }
tr.front td:first-child { font-weight: 600; }
.scroll { overflow-x: auto; }
.noisy { background: #fff3cd; padding: .4rem .8rem; }
</style>
{{ inline | safe }}
</head>
<body>
<h1>{{ study.title }}</h1>
<p>{{ study.about }}</p>
<p>Times are medians of interleaved rounds, with the digits that their 95 % bootstrap interval supports. Bold: on the Pareto
front. The method is that of MLPerf's single-stream and offline scenarios, at short length; these are not MLPerf results. Click
a column's head to sort by it, and a name in a legend to hide it.</p>
{% for g in groups %}
<h2>{{ g.group.name }}</h2>
<p>{{ g.about }}</p>
<p{% if not g.group.conditions.quiet %} class="noisy"{% endif %}>{{ g.conditions }}</p>
{{ g.plot | safe }}
<div class="scroll"><table><thead><tr>{% for h in g.columns %}<th>{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in g.rows %}<tr{% if row.front %} class="front"{% endif %}>
{% for c in row.cells %}<td{% if g.columns[loop.index0] == "note" %} class="note"{% endif %}>{{ c }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
{{ script | safe }}
<script>
document.querySelectorAll("th").forEach(th => th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], at = [...th.parentNode.children].indexOf(th), up = th.dataset.up !== "1";
  const key = row => { const t = row.cells[at].textContent.replaceAll(",", ""), n = parseFloat(t); return isNaN(n) ? t : n; };
  const rank = (x, y) => typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1;
  const order = (a, b) => rank(key(a), key(b));
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach(row => body.append(row));
  th.dataset.up = up ? "1" : "0";
}));
</script>
</body>
</html>
"""


def html(study: Study) -> str:
    """The page's text."""
    shown = [(g, joint_sentence(g), FRONT, group_front(g)) for g in joint_groups(study)]
    shown += [(g, method_sentences(g), columns(g), g.rows) for g in study.groups]
    plots = [_scatter(g) if has_plot(g) else _bars(g) for g, *_ in shown]
    script, parts = components(plots) if plots else ("", ())
    groups = [
        {
            "group": g,
            "about": text,
            "conditions": conditions_sentence(g.conditions),
            "plot": part,
            "columns": chosen,
            "rows": _rows(g, rows, chosen),
        }
        for (g, text, chosen, rows), part in zip(shown, parts, strict=True)
    ]
    inline = Resources("inline", components=["bokeh"]).render()
    page = Environment(autoescape=True, finalize=_shown).from_string(TEMPLATE)
    return page.render(study=study, groups=groups, script=script, inline=inline)


def _shown(value: object) -> object:
    """What the template inserts: plots and scripts as they are, all other text without what is not printable."""
    return plain(value, 10_000) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _rows(g: Group, rows: list[Row], chosen: list[str]) -> list[dict[str, object]]:
    best = {id(r) for r in group_front(g)}
    at = [columns(g).index(c) for c in chosen]
    return [{"cells": [cells(g, r)[i] for i in at], "front": id(r) in best} for r in rows]


def _source(rows: list[Row]) -> ColumnDataSource:
    measured = [(r, r.stream) for r in rows if r.stream is not None]
    return ColumnDataSource(
        {
            "x": [s.ms.value for _, s in measured],
            "y": [100 * r.top1 if r.top1 is not None else float("nan") for r, _ in measured],
            "network": [plain(r.network) for r, _ in measured],
            "engine": [plain(r.engine) for r, _ in measured],
            "label": [plain(f"{r.network} | {r.engine}") for r, _ in measured],
            "ms": [f"{statistics.text(s.ms)} ({s.ms.low:.4g} to {s.ms.high:.4g})" for _, s in measured],
            "bytes": [r.bytes for r, _ in measured],
            "faster": [f"{statistics.text(r.faster)}x" if r.faster else "" for r, _ in measured],
        }
    )


TIPS = [
    ("network", "@network"), ("engine", "@engine"), ("ms", "@ms"), ("top-1", "@y{0.00} %"), ("faster", "@faster"),
    ("file", "@bytes{0,0} bytes"),
]  # fmt: skip


def _scatter(g: Group) -> figure:
    least = min(r.threads for r in g.rows)
    rows = [r for r in g.rows if r.threads == least and r.stream is not None and r.top1 is not None]
    plot = figure(
        width=1100, height=520, x_axis_type="log", x_axis_label=f"latency of one image, {least} thread, median ms",
        y_axis_label="top-1 accuracy, %", tools="pan,wheel_zoom,box_zoom,reset,save",
    )  # fmt: skip
    best = group_front(g)
    x, y = [r.stream.ms.value for r in best if r.stream], [100 * (r.top1 or 0) for r in best]
    plot.step(x, y, mode="after", color="#999999", legend_label="Pareto front")
    for index, engine in enumerate(dict.fromkeys(r.engine for r in rows)):
        mine = [r for r in rows if r.engine == engine]
        size = 13 if engine == OWN else 9
        color = Category20[20][index % 20]
        drawn = plot.scatter("x", "y", source=_source(mine), size=size, color=color, legend_label=plain(engine))
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=TIPS))
    # Bokeh's own ticks are even below two decades, and so crowd at the slow end.
    decades = [10.0**d for d in range(-4, 6)]
    plot.xaxis.ticker = FixedTicker(
        ticks=[m * d for d in decades for m in (1, 2, 5)], minor_ticks=[m * d for d in decades for m in (3, 4, 6, 7, 8, 9)]
    )
    plot.xaxis.formatter = BasicTickFormatter(precision=4, use_scientific=False)
    plot.legend.click_policy = "hide"
    plot.legend.label_text_font_size = "10px"
    plot.add_layout(plot.legend[0], "right")
    return plot


def _bars(g: Group) -> figure:
    least = min((r.threads for r in g.rows), default=1)
    source = _source([r for r in g.rows if r.threads == least])
    labels = list(dict.fromkeys(source.data["label"]))
    plot = figure(
        width=1100, height=120 + 18 * len(labels), y_range=FactorRange(factors=labels[::-1]),
        x_axis_label=f"median ms, {least} thread", tools="pan,wheel_zoom,reset,save",
    )  # fmt: skip
    drawn = plot.hbar(y="label", right="x", height=0.7, source=source)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[t for t in TIPS if t[0] != "top-1"]))
    return plot
