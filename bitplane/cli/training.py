"""The commands that train."""

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from bitplane.cli.arguments import given
from bitplane.cli.output import UsageError, write_json, write_text
from bitplane.train.config import TrainConfig, to_options


def train(
    output: Path,
    config: OmitArgPrefixes[TrainConfig],
    init: Path | None = None,
    resume: bool = False,
    json: Path | None = None,
) -> None:
    """Train a network into the folder OUTPUT (under `accelerate launch -m bitplane.cli train ...` for several processes).

    Args:
        output: folder of the run.
        config: the run.
        init: start from the weights of this finished run, or of a torchvision state_dict (.safetensors); a shallower network of
            the same family will do: the blocks it lacks start as the identity.
        resume: go on with OUTPUT from its newest checkpoint, by its stored configuration.
        json: write the result to this file.
    """
    from bitplane.train.loop import train as run_training

    if resume:
        _refuse_other_options(config, output)
    write_json(json, run_training(config, output, resume=resume, init=init))


def _refuse_other_options(config: TrainConfig, run: Path) -> None:
    # A run is resumed by its stored configuration: an option that says otherwise would be ignored silently.
    from bitplane.train.checkpoint import read_config

    stored, default = to_options(read_config(run)), to_options(TrainConfig())
    for key, value in to_options(config).items():
        if value != stored[key] and (key in given() or value != default[key]):
            raise UsageError(
                f"{run}: was trained with {key} {stored[key]}, not {value}; leave the option out, or use a new --output"
            )


def experiments(
    description: Positional[Path],
    output: Annotated[Path, arg(aliases=["-o"])],
    only: tuple[str, ...] = (),
    epochs: int | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    init: Path | None = None,
    collect: bool = False,
    json: Path | None = None,
    page: Path | None = None,
) -> None:
    """Train the runs of DESCRIPTION that are missing, and write their results.

    Killed at any moment, the same command goes on where it was; several at once share the work.

    Args:
        description: an experiment description (.toml).
        output: folder of all runs.
        only: patterns of runs, as GROUP/RUN (`end-to-end/*-ternary-*`); default: all.
        epochs: budget of every run, in place of the description's.
        data: images, in place of the description's.
        data_dir: where CIFAR is.
        init: finished run to start from, in place of the group that the description names.
        collect: train nothing, write the results of what is finished.
        json: results file; records of other runs in it are kept.
        page: Markdown page of all results in the results file.
    """
    import difflib
    import fnmatch

    from bitplane.train import experiments as e
    from bitplane.train.experiments import results as r

    experiment = e.read_experiment(description)
    given = {"epochs": epochs, "data": data, "data_dir": data_dir}
    planned = e.plan(experiment, output, {k: v for k, v in given.items() if v is not None}, init)
    names = {id(p): f"{p.folder.parent.name}/{p.folder.name}" for p in planned}
    chosen = [p for p in planned if not only or any(fnmatch.fnmatchcase(names[id(p)], o) for o in only)]
    if not chosen:
        near = {n: None for o in only for n in difflib.get_close_matches(o, names.values(), 3, 0)}
        raise UsageError(
            f"--only {' '.join(only)} matches none of the {len(names)} runs of {description}, such as {', '.join(near)}"
        )
    failures: list[str] = []
    if not collect:
        from bitplane.train.data import load_data

        failures = e.run_missing(chosen, load_data)
    records = r.merge(r.read_records(json) if json else [], r.collect(planned))
    write_json(json, r.document(experiment, records))
    text = r.page(experiment, records)
    if page:
        write_text(page, text)
    print(text)
    if failures:
        raise UsageError(f"{len(failures)} of {len(chosen)} runs failed: {failures[0]}")
