"""A group's picture: top-1 accuracy over latency with the Pareto front, as a PNG image (matplotlib)."""

from io import BytesIO
from typing import Any

from bitplane.benchmarks.peers import OWN, PEERS
from bitplane.benchmarks.report.tables import group_front
from bitplane.benchmarks.results import Group, Row
from bitplane.format.text import plain


def has_plot(g: Group) -> bool:
    """Whether a group has latencies with accuracies."""
    return any(r.stream is not None and r.top1 is not None for r in g.rows)


def draw(g: Group) -> bytes:
    """A PNG image of a group with accuracies, at its smallest thread count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    least = min(r.threads for r in g.rows)
    rows = [r for r in g.rows if r.threads == least and r.stream is not None and r.top1 is not None]
    figure, axes = plt.subplots(figsize=(9, 6))
    colors = plt.get_cmap("tab20")
    engines = list(dict.fromkeys(r.engine for r in rows))
    look = {name: i for i, name in enumerate(dict.fromkeys([*PEERS, *engines]))}  # the same in every picture
    best = group_front(g)
    several = len({r.network.partition(" ")[0] for r in rows}) > 1
    axes.plot(
        [r.stream.ms.value for r in best if r.stream], [100 * (r.top1 or 0) for r in best],
        drawstyle="steps-post", color="0.6", linewidth=1.2, zorder=1, label="Pareto front",
    )  # fmt: skip
    for engine in engines:
        index = look[engine]
        mine = [r for r in rows if r.engine == engine]
        x = [r.stream.ms.value for r in mine if r.stream]
        y = [100 * (r.top1 or 0) for r in mine]
        own = engine == OWN
        axes.scatter(
            x,
            y,
            s=70 if own else 45,
            marker="o" if own else "sD^vPXph<>"[index % 10],
            color=colors(index % 20),
            label=_label(engine),
            zorder=3,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"latency of one image, {least} thread{'s' * (least > 1)}, median ms")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title(_label(g.name))
    axes.margins(0.25 if several else 0.2, 0.12)  # room for the first name
    own = [r for r in best if r.engine == OWN]
    _name(axes, {r.network if several else r.network.partition(" ")[2] or r.network: r for r in own})
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    image = BytesIO()
    figure.savefig(image, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    return image.getvalue()


def _label(text: str) -> str:
    """Text as matplotlib shows it: no formulas, and no name that hides its legend."""
    shown = plain(text, 80).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _name(axes: Any, rows: dict[str, Row]) -> None:
    """Write names to the upper left of their points, from the lowest up, each clear of the one below it."""
    height, reach = 10.0, 90.0  # points of a name
    axes.figure.canvas.draw()  # applies margins and scales
    unit = 72 / axes.figure.dpi
    placed: list[tuple[float, float]] = []
    for name, r in sorted(rows.items(), key=lambda item: item[1].top1 or 0):
        assert r.stream is not None
        point = (r.stream.ms.value, 100 * (r.top1 or 0))
        x, y = axes.transData.transform(point) * unit
        top = max([y + 6, *(below + height for other, below in placed if abs(other - x) < reach)])
        placed.append((x, top))
        axes.annotate(_label(name), point, xytext=(-5, top - y), textcoords="offset points", fontsize=8, ha="right")
