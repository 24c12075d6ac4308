"""`bitplane study`."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from bitplane.cli.bench import say_group
from bitplane.cli.options import Count, DataOptions, JsonFile, OutputPath
from bitplane.cli.output import UsageError, make_folder, say, write_bytes, write_text


@dataclass(frozen=True)
class Options:
    """Measure the networks and engines of DESCRIPTION, and write OUTPUT/study.json, .md, .html and pictures.

    Attributes:
        description: a study description (.toml).
        output: folder of the report; groups that are not measured now keep the results they have there.
        only: names of groups to measure; default: all.
        images: images, in place of those that groups with accuracies name.
        rounds: turns of each engine, in place of the description's.
        work: folder for files in other engines' formats, used again; default: OUTPUT/files.
        json: also write the results to this file.
    """

    description: Positional[Path]
    output: OutputPath
    only: tuple[str, ...] = ()
    images: DataOptions = field(default_factory=DataOptions)
    rounds: Count | None = None
    work: Path | None = None
    json: JsonFile = None


def run(options: Options) -> None:
    """Measure, and write the report after each group."""
    from bitplane.benchmarks.candidates import Sources
    from bitplane.benchmarks.description import read_description
    from bitplane.benchmarks.images import ImageSource
    from bitplane.benchmarks.report import report_files
    from bitplane.benchmarks.results import Study, read_study, to_json
    from bitplane.benchmarks.study import run_study

    plan = read_description(options.description)
    names = [g.name for g in plan.group]
    if unknown := [n for n in options.only if n not in names]:
        raise UsageError(f"--only {unknown[0]}: no group of {options.description} is called so; there are {', '.join(names)}")
    if options.rounds is not None:
        plan = plan.with_rounds(options.rounds)
    make_folder(options.output)
    stored = options.output / "study.json"
    before = read_study(stored) if stored.exists() else None
    source = ImageSource(options.images.load)
    sources = Sources(options.description.parent, options.work or options.output / "files", source.images, source.dataset)

    def write(found: Study) -> None:
        for name, data in report_files(found).items():
            write_bytes(options.output / name, data)

    found = run_study(plan, sources, write, only=options.only, previous=before)
    for g in found.groups:
        if not options.only or g.name in options.only:
            say()
            say(g.name)
            say_group(g)
    say()
    say(f"{options.output / 'study.md'} and {options.output / 'study.html'} hold the report")
    if options.json:
        write_text(options.json, to_json(found))
