"""Experiments as files: a description names runs, one command trains those that are missing and collects all results.

A description (TOML) has options common to all runs, groups of runs, and published figures to set beside them:

    title = "..."
    [common]                         # options of `bitplane train`, by their names there
    [[group]]
    name = "end to end"
    init = "float"                   # optional: start from the finished run of that group with the same axes, where it has them
    teacher = "float"                # optional: learn from the logits of that group's run too
    columns = "method"               # axis that the table shows as columns
    options = { scale = "none" }
    axes = { seed = [0, 1, 2], weights = ["binary", "ternary"], method = ["bc", "pc"] }     # the first varies slowest
    [[group.override]]               # where axes have these values
    when = { method = "pq" }
    options = { rho_0 = 1e-4 }
    init = false                     # optional: start at random; `teacher = "float"`: as for a group
    [[reference]]
    group = "end to end"
    when = { weights = "binary", method = "bc" }
    top1 = 87.51

An axis named `variant` is no option: overrides say what its names mean, as in an ablation.

On disk: OUTPUT/<group>/<axis values>-e<epochs>/ is an ordinary run, with a lock beside it while a process works on it, so that
several processes can share one description: each takes the next run that is neither finished nor taken.
"""

import itertools
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from bitplane.train.checkpoint import read_config, with_data
from bitplane.train.config import DataConfig, TrainConfig, flat, from_flat
from bitplane.train.data.dataset import Dataset
from bitplane.train.errors import BitplaneError, CheckpointError, ConfigError

VARIANT = "variant"  # an axis that is no option: its names are given a meaning by overrides
WITHOUT_EFFECT = {"eval_every", "save_every", "keep", "tracker"}  # options that a run may have otherwise: weights are the same


@dataclass(frozen=True)
class Group:
    """Runs that differ along axes; see the module's docstring."""

    name: str
    axes: Mapping[str, list[Any]]
    columns: str
    options: Mapping[str, Any] = field(default_factory=dict)
    init: str = ""
    teacher: str = ""
    override: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """A description as read."""

    title: str
    about: str
    groups: list[Group]
    common: Mapping[str, Any]
    reference: list[dict[str, Any]]


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


def read_experiment(path: Path) -> Experiment:
    """Read a description.

    Raises:
        ConfigError: missing, no TOML, or a table has an unknown or missing field.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: not a readable experiment description ({e})") from e
    try:
        groups = [Group(**g) for g in values.pop("group")]
        title, common = values.pop("title"), values.pop("common", {})
        experiment = Experiment(title, values.pop("about", ""), groups, common, values.pop("reference", []))
        for r in experiment.reference:
            if missing := {"group", "when", "top1"} - set(r):
                raise KeyError(f"`{min(missing)}` of a reference")
    except (KeyError, TypeError) as e:
        raise ConfigError(f"{path}: {str(e).replace('Group.__init__()', 'a group')} is missing or not a field") from e
    if values:
        raise ConfigError(f"{path}: `{next(iter(values))}` is not a field of a description")
    names = [g.name for g in groups]
    for g in groups:
        if g.init and g.init not in names[: names.index(g.name)]:
            raise ConfigError(f"{path}: group '{g.name}' starts from '{g.init}', which is no group before it")
        for teacher in (g.teacher, *(o.get("teacher", "") for o in g.override)):
            if teacher and teacher not in names[: names.index(g.name)]:
                raise ConfigError(f"{path}: group '{g.name}' learns from '{teacher}', which is no group before it")
        if g.columns not in g.axes:
            raise ConfigError(f"{path}: group '{g.name}' has no axis '{g.columns}' for its columns")
    return experiment


def plan(experiment: Experiment, output: Path, options: Mapping[str, Any], init: Path | None = None) -> list[Planned]:
    """All runs of a description, in the order in which they are trained.

    Args:
        experiment: the description.
        output: folder of all runs.
        options: options that override the description's (epochs, data, ...).
        init: finished run that replaces the one which a group's `init` names.

    Raises:
        ConfigError: an option is unknown or has a value that cannot be used.
    """
    planned: list[Planned] = []
    for g in experiment.groups:
        for values in itertools.product(*g.axes.values()):
            axes = dict(zip(g.axes, values, strict=True))
            chosen = {**experiment.common, **g.options, **{k: v for k, v in axes.items() if k != VARIANT}}
            start, teacher = g.init, g.teacher
            for o in g.override:
                if matches(o["when"], axes):
                    chosen |= o.get("options", {})
                    start = start if o.get("init", True) else ""
                    teacher = o.get("teacher", teacher)
            source = {
                name: init if init and name == g.init else _run_of(name, axes, planned) for name in {start, teacher} - {""}
            }
            chosen |= {"teacher": str(source[teacher])} if teacher else {}
            config = from_flat({**chosen, **options})
            name = "-".join(f"{k[0]}{v}" if not isinstance(v, str) else v for k, v in axes.items())
            folder = f"{g.name}/{name}-e{config.epochs}".replace(" ", "-")
            planned.append(Planned(g, axes, config, output / folder, source.get(start)))
    return planned


def _run_of(group: str, axes: Mapping[str, Any], planned: list[Planned]) -> Path:
    """The run of a planned group that has the values of `axes`, on those of its axes that have them at all."""
    runs = [q for q in planned if q.group.name == group]
    shared = {k: v for k, v in axes.items() if any(q.axes.get(k) == v for q in runs)}
    return next(q.folder for q in runs if matches(shared, q.axes))


def run_missing(chosen: list[Planned], load: Callable[[DataConfig], Dataset], *, progress: bool = True) -> list[str]:
    """Train what is neither finished nor being trained by another process.

    Args:
        chosen: runs of `plan`.
        load: gives the data of a run; called when they are not those of the run before.
        progress: show progress.

    Returns:
        One line for each run that could not be trained; the others were finished nevertheless.
    """
    from bitplane.train.loop import train  # pulls in torch and accelerate: collecting does without

    failures: list[str] = []
    data: Dataset | None = None
    loaded: DataConfig | None = None
    for p in chosen:
        if (p.folder / "final" / "result.json").exists():
            continue
        p.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(p.folder.with_name(f".{p.folder.name}.lock"), timeout=0):
                if (p.folder / "final" / "result.json").exists():
                    continue
                if data is None or loaded != p.config.data:
                    data, loaded = load(p.config.data), p.config.data
                if progress:
                    tqdm.write(str(p.folder))
                if p.start is not None and not (p.start / "final" / "result.json").exists():
                    raise CheckpointError(f"{p.folder}: starts from {p.start}, which is not finished yet")
                train(p.config, p.folder, resume=_prepare(p, data), init=p.start, progress=progress, data=data)
        except Timeout:
            continue
        except BitplaneError as e:
            failures.append(" ".join(str(e).split()))
    return failures


def _prepare(p: Planned, data: Dataset) -> bool:
    # True if there is a checkpoint to resume from; a run that was killed before its first one starts again.
    if not (p.folder / "config.json").exists():
        return False
    sample = data.train.images
    wanted = flat(with_data(p.config, len(data.classes), sample.shape[1], data.zero_point, data.pixel_scale))
    for key, value in flat(read_config(p.folder)).items():
        if wanted[key] != value and key not in WITHOUT_EFFECT:
            raise CheckpointError(
                f"{p.folder}: was trained with {key} {value}, the description now asks for {wanted[key]}; remove the folder or"
                " choose another output"
            )
    if list((p.folder / "checkpoints").glob("epoch-*")):
        return True
    shutil.rmtree(p.folder)
    return False


def matches(when: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    """Whether a run has the values that `when` asks for."""
    return all(axes.get(k) == v for k, v in when.items())
