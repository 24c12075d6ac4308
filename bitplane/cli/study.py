"""The commands that compare: study, report, recommend."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from bitplane.cli.output import UsageError, table, write_json, write_text

if TYPE_CHECKING:
    from bitplane.benchmarks.networks import Images
    from bitplane.benchmarks.results import Group, Study


def study(
    description: Positional[Path],
    output: Annotated[Path, arg(aliases=["-o"])],
    only: tuple[str, ...] = (),
    data: str | None = None,
    data_dir: str = "data",
    rounds: int | None = None,
    work: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure the networks and engines of DESCRIPTION, and write OUTPUT/study.json, .md, .html and pictures.

    Args:
        description: a study description (.toml).
        output: folder of the report; groups that are not measured now keep the results they have there.
        only: names of groups to measure; default: all.
        data: images, in place of those that groups with accuracies name.
        data_dir: where CIFAR is.
        rounds: turns of each contestant, in place of the description's.
        work: folder for files in other engines' formats, used again; default: OUTPUT/files.
        json: also write the results to this file.
    """
    from dataclasses import replace

    from bitplane.benchmarks.description import read_description
    from bitplane.benchmarks.results import read_study
    from bitplane.benchmarks.study import run_study

    plan = read_description(description)
    names = [g.name for g in plan.group]
    if unknown := [n for n in only if n not in names]:
        raise UsageError(f"--only {unknown[0]}: no group of {description} is called so; there are {', '.join(names)}")
    if rounds is not None:
        import msgspec

        plan = msgspec.structs.replace(plan, measure=replace(plan.measure, rounds=rounds))
    _make_folder(output)
    before = read_study(output / "study.json") if (output / "study.json").exists() else None
    found = run_study(
        plan, description.parent, work or output / "files", loader(data, data_dir), lambda s: write_report(s, output),
        raw=raw_loader(data, data_dir), only=only, previous=before,
    )  # fmt: skip
    for g in found.groups:
        if not only or g.name in only:
            print(f"\n{g.name}\n{text_table(g)}")
    print(f"\n{output / 'study.md'} and {output / 'study.html'} hold the report")
    if json:
        from bitplane.benchmarks.results import to_json

        write_text(json, to_json(found))


def report(study: Positional[Path], output: Annotated[Path, arg(aliases=["-o"])], refresh: tuple[Path, ...] = ()) -> None:
    """Write the report of a study's results again: OUTPUT/study.md, study.html and pictures.

    Args:
        study: a results file of `bitplane study` (study.json).
        output: folder to write to.
        refresh: Markdown files whose tables between `<!-- study: GROUP -->` and `<!-- end -->` are generated anew.
    """
    from bitplane.benchmarks.readme import refresh as refreshed
    from bitplane.benchmarks.results import read_study

    found = read_study(study)
    _make_folder(output)
    write_report(found, output)
    for page in refresh:
        write_text(page, refreshed(page.read_text(), found))
    print(f"{output / 'study.md'} and {output / 'study.html'} hold the report")


def recommend(
    study: Path = Path("docs/study/study.json"),
    latency: str | None = None,
    accuracy: float | None = None,
    size: int | None = None,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Say which network to take: the most accurate within a latency, or the fastest of an accuracy.

    Args:
        study: results of `bitplane study`.
        latency: largest median latency of one image, such as 0.2ms or 300us.
        accuracy: least top-1 accuracy in percent; of those that have it, the fastest is named.
        size: largest file in bytes.
        threads: thread count.
        json: write the answer to this file.
    """
    from dataclasses import asdict

    from bitplane.benchmarks.front import recommend as choose
    from bitplane.benchmarks.report import cells, heads
    from bitplane.benchmarks.results import read_study

    if accuracy is not None and not 0 < accuracy <= 100:
        raise UsageError(f"--accuracy {accuracy:g}: must be between 0 and 100 percent")
    found = read_study(study)
    chosen = choose(
        found,
        latency_ms=None if latency is None else milliseconds(latency),
        accuracy=None if accuracy is None else accuracy / 100,
        size=size,
        threads=threads,
    )
    for g, row in chosen:
        shown = dict(zip(heads(g), cells(g, row), strict=True))
        ms, top1 = shown["ms"], shown["top-1"]
        print(f"{g.name}: {row.network} ({row.file}), {ms} ms, {top1}, {row.bytes:,} bytes, on {g.machine.cpu}")
    write_json(json, [{"group": g.name, **asdict(row)} for g, row in chosen])


def milliseconds(text: str) -> float:
    """A duration such as 0.2ms, 300us or 1s.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(us|ms|s)", text.strip())
    if not found or not float(found[1]) > 0:
        raise UsageError(f"--latency {text}: must be a duration such as 0.2ms, 300us or 1s")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def write_report(found: "Study", output: Path) -> None:
    """Write results, page, HTML and pictures into a folder."""
    from bitplane.benchmarks.front import united
    from bitplane.benchmarks.page import html
    from bitplane.benchmarks.picture import draw, has_picture
    from bitplane.benchmarks.report import markdown
    from bitplane.benchmarks.results import to_json

    write_text(output / "study.json", to_json(found))
    pictures = {g.name: file_name(g.name) for g in [*united(found), *found.groups] if has_picture(g)}
    for g in [*united(found), *found.groups]:
        if g.name in pictures:
            draw(g, output / pictures[g.name])
    write_text(output / "study.md", markdown(found, pictures))
    write_text(output / "study.html", html(found))


def file_name(group: str) -> str:
    """Name of a group's picture."""
    return re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-") + ".png"


def text_table(g: "Group") -> str:
    """A group's rows for the terminal."""
    from bitplane.benchmarks.report import cells, heads

    columns = heads(g)
    right = {i for i, h in enumerate(columns) if h not in ("network", "layer", "engine", "note")}
    return table(columns, [cells(g, r) for r in g.rows], right)


def loader(data: str | None, data_dir: str) -> Any:
    """A function from a data set's name to its images; `data` is taken in place of any name."""
    raw = raw_loader(data, data_dir)

    def load(name: str) -> "Images":
        from bitplane.benchmarks.networks import CALIBRATION, Images
        from bitplane.export import evenly

        found = raw(name)
        calibration = evenly(found.train.images, CALIBRATION).numpy()
        return Images(found.name, calibration, (found.test.images.numpy(), found.test.labels.numpy()))

    return load


def raw_loader(data: str | None, data_dir: str) -> Any:
    """The same, giving the whole data set; the last one is kept."""
    kept: dict[str, Any] = {}

    def load(name: str) -> Any:
        from bitplane.train.config import DataConfig
        from bitplane.train.data import load_data

        wanted = data or name
        if wanted not in kept:
            kept.clear()
            kept[wanted] = load_data(DataConfig(wanted, data_dir))
        return kept[wanted]

    return load


def compare(
    packed: list[Path],
    float_model: Path | None,
    against: list[str],
    images: Any,
    threads: tuple[int, ...],
    batch: int,
    starts: int,
) -> "Study":
    """Measure a few packed files beside other engines, for `bench` and `demo`.

    Args:
        packed: packed files.
        float_model: float32 ONNX file of the same architecture, or None.
        against: engines beside bitplane.
        images: function from a data set's name to its `Images`, or None for latency only.
        threads: thread counts; none: one and all.
        batch: images of an offline call.
        starts: cold starts of each.
    """
    import tempfile

    from bitplane.benchmarks.description import Description, GroupPlan, Measure, check_group
    from bitplane.benchmarks.study import run_study

    files = [str(p.resolve()) for p in packed]
    g = GroupPlan(
        name="bench", packed=files, shared=files, float=str(float_model.resolve()) if float_model else "",
        data="data" if images else "", engines=["bitplane", *against],
    )  # fmt: skip
    check_group(g, "bench")
    plan = Description("bitplane bench", [g], measure=Measure(threads=list(threads), starts=starts, batch=batch))
    with tempfile.TemporaryDirectory(prefix="bitplane-bench-") as folder:
        return run_study(plan, Path("/"), Path(folder), images, lambda s: None)


def _make_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: exists and is not a folder; choose another path")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{output}: cannot be made ({e.strerror}); choose another path") from e
