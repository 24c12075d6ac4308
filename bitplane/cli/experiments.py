"""`bitplane experiments`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from bitplane.cli.options import Count, JsonFile, OutputPath
from bitplane.cli.output import UsageError, say, write_json, write_text

if TYPE_CHECKING:
    from bitplane.train.experiments import Planned


@dataclass(frozen=True)
class Options:
    """Train the runs of DESCRIPTION that are missing, and write their results.

    Killed at any moment, the same command goes on where it was; several at once share the work.

    Attributes:
        description: an experiment description (.toml).
        output: folder of all runs.
        only: patterns of runs, as GROUP/RUN (`end-to-end/*-ternary-*`); default: all.
        epochs: budget of every run, in place of the description's.
        data: images, in place of the description's.
        data_dir: where CIFAR is.
        download: download CIFAR if it is not there.
        init: finished run to start from, in place of the group that the description names.
        model: the Python files, as FILE.py:FUNCTION, that the description's `model` may name: they are run.
        collect: train nothing, write the results of what is finished.
        json: results file; records of other runs in it are kept.
        page: Markdown page of all results in the results file.
    """

    description: Positional[Path]
    output: OutputPath
    only: tuple[str, ...] = ()
    epochs: Count | None = None
    data: str | None = None
    data_dir: str | None = None
    download: bool = False
    init: Path | None = None
    model: tuple[str, ...] = ()
    collect: bool = False
    json: JsonFile = None
    page: Path | None = None


def run(options: Options) -> None:
    """Train what is missing, then write all results."""
    from bitplane.train import experiments as e
    from bitplane.train.experiments import results as r

    experiment = e.read_experiment(options.description)
    given = {"epochs": options.epochs, "data": options.data, "data_dir": options.data_dir}
    planned = e.plan(experiment, options.output, {k: v for k, v in given.items() if v is not None}, options.init, options.model)
    chosen = _choose(planned, options)
    failures = [] if options.collect else _train(chosen, options.download)
    records = r.merge(r.read_records(options.json) if options.json else [], r.collect(planned))
    write_json(options.json, r.document(experiment, records))
    text = r.page(experiment, records)
    if options.page:
        write_text(options.page, text)
    for line in text.splitlines():
        say(line)
    if failures:
        raise UsageError(f"{len(failures)} of {len(chosen)} runs failed: {failures[0]}")


def _choose(planned: "list[Planned]", options: Options) -> "list[Planned]":
    import difflib
    import fnmatch

    names = [f"{p.folder.parent.name}/{p.folder.name}" for p in planned]
    only = options.only
    chosen = [p for p, name in zip(planned, names, strict=True) if not only or any(fnmatch.fnmatchcase(name, o) for o in only)]
    if not chosen:
        near = {n: None for o in only for n in difflib.get_close_matches(o, names, 3, 0)}
        raise UsageError(
            f"--only {' '.join(only)} matches none of the {len(names)} runs of {options.description}, such as {', '.join(near)}"
        )
    return chosen


def _train(chosen: "list[Planned]", download: bool) -> list[str]:
    from bitplane.train.data import load_data
    from bitplane.train.experiments import run_missing

    return run_missing(chosen, lambda config: load_data(replace(config, download=download or config.download)))
