"""Train the runs of a description that are missing, each by one process at a time."""

from collections.abc import Callable

from tqdm import tqdm

from bitplane.atomic import remove_folder
from bitplane.train.checkpoint import checkpoints, read_config, writing
from bitplane.train.config import DataConfig, to_options
from bitplane.train.data.dataset import Dataset, with_data
from bitplane.train.errors import BitplaneError, CheckpointError, RunTakenError
from bitplane.train.experiments.planning import Planned
from bitplane.train.models.python_file import read_python, with_digest
from bitplane.train.run_folder import held

WITHOUT_EFFECT = {"eval_every", "save_every", "keep", "tracker"}
"""Options in which a run may differ from its description: its weights are the same."""


def run_missing(chosen: list[Planned], load: Callable[[DataConfig], Dataset], *, progress: bool = True) -> list[str]:
    """Train what is neither finished nor being trained by another process.

    Args:
        chosen: runs of `plan`.
        load: gives the data of a run; called when they are not those of the run before.
        progress: show progress.

    Returns:
        One line for each run that could not be trained; the others were finished nevertheless.
    """
    from bitplane.train.loop import train_held  # pulls in accelerate: collecting does without

    failures: list[str] = []
    data: Dataset | None = None
    loaded: DataConfig | None = None
    for p in chosen:
        if (p.folder / "final" / "result.json").exists():
            continue
        try:
            with held(p.folder):
                if (p.folder / "final" / "result.json").exists():
                    continue
                if data is None or loaded != p.config.data:
                    data, loaded = load(p.config.data), p.config.data
                if progress:
                    tqdm.write(str(p.folder))
                if p.start is not None and not (p.start / "final" / "result.json").exists():
                    raise CheckpointError(f"{p.folder}: starts from {p.start}, which is not finished yet")
                train_held(p.config, p.folder, resume=_prepare(p, data), init=p.start, progress=progress, data=data)
        except RunTakenError:
            continue
        except BitplaneError as e:
            failures.append(" ".join(str(e).split()))
    return failures


def _prepare(p: Planned, data: Dataset) -> bool:
    # True if there is a checkpoint to resume from. Runs of bitplane 0.1 had none before their first epoch: they start again.
    if not (p.folder / "config.json").exists():
        return False
    wanted = to_options(with_digest(with_data(p.config, data), read_python(p.config.model)))
    for key, value in to_options(read_config(p.folder)).items():
        if wanted[key] != value and key not in WITHOUT_EFFECT:
            raise CheckpointError(
                f"{p.folder}: was trained with {key} {value}, the description now asks for {wanted[key]}; remove the folder or"
                " choose another output"
            )
    if checkpoints(p.folder):
        return True
    with writing(p.folder):
        remove_folder(p.folder)
    return False
