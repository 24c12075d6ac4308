"""From a description to the runs that it asks for: a pure function, in the order in which they are trained."""

import itertools
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from bitplane.train.config import TrainConfig, from_options
from bitplane.train.errors import ConfigError
from bitplane.train.experiments.description import VARIANT, Experiment, Group, matches

MOST_RUNS = 2000
"""Of a description: axes multiply."""


@dataclass(frozen=True)
class Planned:
    """A run of a description.

    Attributes:
        group: its group.
        axes: its value on each axis.
        config: the run.
        folder: where it is, under the output folder.
        start: finished run whose weights it starts from, or None.
    """

    group: Group
    axes: dict[str, Any]
    config: TrainConfig
    folder: Path
    start: Path | None


def plan(
    experiment: Experiment,
    output: Path,
    options: Mapping[str, Any],
    init: Path | None = None,
    python_files: Collection[str] = (),
) -> list[Planned]:
    """All runs of a description, in the order in which they are trained.

    Args:
        experiment: the description.
        output: folder of all runs.
        options: options that override the description's (epochs, data, ...).
        init: finished run that replaces the one which a group's `init` names.
        python_files: names that `model` may have of networks of Python files: a description alone never has a file run.

    Raises:
        ConfigError: an option is unknown or has a value that cannot be used, two runs would have one folder, or a Python file
            is not among `python_files`; the message names file and group.
    """
    planned: list[Planned] = []
    taken: set[Path] = set()
    count = sum(math.prod(map(len, g.axes.values())) for g in experiment.groups)
    if count > MOST_RUNS:
        raise ConfigError(f"{experiment.path}: asks for {count} runs, at most {MOST_RUNS} are planned; shorten the axes")
    for g in experiment.groups:
        for values in itertools.product(*g.axes.values()):
            axes = dict(zip(g.axes, values, strict=True))
            chosen, start, teacher = _choose(experiment, g, axes)
            source = {
                name: init if init and name == g.init else _run_of(name, axes, planned) for name in {start, teacher} - {""}
            }
            chosen |= {"teacher": str(source[teacher])} if teacher else {}
            try:
                config = from_options({**chosen, **options})
            except ConfigError as e:
                raise ConfigError(f"{experiment.path}: group '{g.name}': {e}") from e
            if config.model.source.kind == "file" and config.model.model not in python_files:
                raise ConfigError(
                    f"{experiment.path}: group '{g.name}': `model` (={config.model.model}) is a Python file, which runs only if"
                    f" you name it: add --model {config.model.model}"
                )
            name = "-".join(_folder_part(k, v) for k, v in axes.items())
            folder = f"{g.name}/{name}-e{config.epochs}".replace(" ", "-")
            if (parts := PurePath(folder)).is_absolute() or ".." in parts.parts or "\0" in folder:
                raise ConfigError(f"{experiment.path}: group '{g.name}': the folder '{folder}' would leave the output")
            if output / folder in taken:
                raise ConfigError(f"{experiment.path}: group '{g.name}': two runs would have the folder '{folder}'")
            taken.add(output / folder)
            planned.append(Planned(g, axes, config, output / folder, source.get(start)))
    return planned


def _folder_part(axis: str, value: Any) -> str:
    """A run's value on an axis as a part of its folder's name."""
    if not isinstance(value, str):
        return f"{axis[0]}{value}"
    return re.sub(r"[:/\\]", "-", value) if axis == "model" else value


def _choose(experiment: Experiment, g: Group, axes: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Options of a run, and the groups that it starts from and learns from ("" for none)."""
    chosen = {**experiment.common, **g.options, **{k: v for k, v in axes.items() if k != VARIANT}}
    start, teacher = g.init, g.teacher
    for o in g.override:
        if matches(o.when, axes):
            chosen |= o.options
            start = start if o.init else ""
            teacher = teacher if o.teacher is None else o.teacher
    return chosen, start, teacher


def _run_of(group: str, axes: Mapping[str, Any], planned: list[Planned]) -> Path:
    """The run of a planned group that has the values of `axes`, on those of its axes that have them at all."""
    runs = [q for q in planned if q.group.name == group]
    shared = {k: v for k, v in axes.items() if any(q.axes.get(k) == v for q in runs)}
    return next(q.folder for q in runs if matches(shared, q.axes))
