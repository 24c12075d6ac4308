"""Train the runs of a description that are missing, each by one process at a time."""

import shutil
from collections.abc import Callable

from filelock import FileLock, Timeout
from tqdm import tqdm

from bitplane.train.checkpoint import read_config, with_data
from bitplane.train.config import DataConfig, to_options
from bitplane.train.data.dataset import Dataset
from bitplane.train.errors import BitplaneError, CheckpointError
from bitplane.train.experiments.planning import Planned

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
    wanted = to_options(with_data(p.config, len(data.classes), sample.shape[1], data.zero_point, data.pixel_scale))
    for key, value in to_options(read_config(p.folder)).items():
        if wanted[key] != value and key not in WITHOUT_EFFECT:
            raise CheckpointError(
                f"{p.folder}: was trained with {key} {value}, the description now asks for {wanted[key]}; remove the folder or"
                " choose another output"
            )
    if list((p.folder / "checkpoints").glob("epoch-*")):
        return True
    shutil.rmtree(p.folder)
    return False
