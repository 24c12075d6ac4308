"""Runs on disk: safetensors and JSON only, every folder complete or absent.

    RUN/config.json                      TrainConfig
    RUN/prepared.json                    what became of each layer: `Preparation`
    RUN/model.py                         copy of the Python file that makes the network, if one does
    RUN/log.jsonl                        one object an epoch
    RUN/checkpoints/epoch-0007/          model.safetensors, optimizer.safetensors, state.json: what resuming needs;
                                         epoch-0000 is the start of the run, written before config.json
    RUN/final/                           model.safetensors (weights exactly in the level set), result.json: what export reads

Folders hold checksums.json too, the SHA-256 of each file in them, which is checked when the file is read. A folder is written
under a temporary name, flushed to the disk and renamed; only then are older ones removed.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bitplane import documents
from bitplane.atomic import new_folder, remove_folder, replace_file, sweep
from bitplane.format.errors import FileError
from bitplane.format.files import read_file
from bitplane.train.config import MOST, DataConfig, ModelConfig, OptimizerConfig, RecipeConfig, TrainConfig
from bitplane.train.errors import CheckpointError, ConfigError, enough_memory

CHECKSUMS = "checksums.json"
"""In every folder that `write_folder` writes: name of a file to its SHA-256."""
MAX_TENSORS = 1 << 36
"""Bytes of the largest file of a run that is read."""

T = TypeVar("T")
DOCUMENT = documents.Kind("a file of a run of this version of bitplane", "restore it or train again", CheckpointError)
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Epochs = Annotated[int, msgspec.Meta(ge=1, le=MOST)]


class Result(TypedDict):
    """What RUN/final/result.json holds: figures of the last epoch, and what the run was."""

    test_top1: Share
    test_loss: NotRequired[float]
    train_top1: NotRequired[Share]
    train_loss: float
    epochs: Epochs
    classes: NotRequired[list[str]]
    dataset: NotRequired[str]
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    device: str
    torch: str


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be written.

    Args:
        path: what the block writes.

    Raises:
        CheckpointError: the block met an error of the file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path}: cannot be written ({e}); free some space or choose another folder") from e


def write_folder(path: Path, tensors: dict[str, dict[str, Tensor]], documents: dict[str, Any]) -> None:
    """Write a folder of safetensors and JSON files, and their checksums, atomically; an older one is replaced.

    Args:
        path: the folder.
        tensors: file stem to named tensors.
        documents: file stem to a JSON value.

    Raises:
        CheckpointError: the disk is full or not writable; nothing half written stays.
    """
    with enough_memory(f"{path}: writing it"), writing(path), new_folder(path) as folder:
        sums = dict[str, str]()
        for stem, values in tensors.items():
            data = save(_unshared(values))
            sums[f"{stem}.safetensors"] = _write(folder / f"{stem}.safetensors", data)
        for stem, value in documents.items():
            sums[f"{stem}.json"] = _write(folder / f"{stem}.json", _to_json(value))
        _write(folder / CHECKSUMS, _to_json(sums))


def _is_there(path: Path) -> bool:
    """Whether a name is taken; unlike `exists`, not False where that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror}); check its folder") from e
    return True


def _unshared(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: no two of them, such as a weight that two layers share, are the same memory."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, value in values.items():
        kept = value.detach().cpu().contiguous()
        result[name] = kept.clone() if kept.data_ptr() in seen else kept
        seen.add(kept.data_ptr())
    return result


def _write(path: Path, data: bytes) -> str:
    """Write a file, and return its SHA-256."""
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _check_sum(path: Path, data: bytes) -> None:
    """Refuse a file of a run that is not what was written, where its folder has checksums; runs of bitplane 0.1 have none."""
    sums = path.with_name(CHECKSUMS)
    wanted = documents.read_json(sums, dict[str, str], DOCUMENT).get(path.name) if _is_there(sums) else None
    if wanted is not None and wanted != hashlib.sha256(data).hexdigest():
        raise CheckpointError(
            f"{path}: is not what was written (its SHA-256 is not that of {CHECKSUMS}); restore it, or remove {sums} if the"
            " change was yours"
        )


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: by the number of their epoch, which has more than four digits some day."""
    folder = run / "checkpoints"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be read ({e.strerror}); check its permissions") from e
    found = [folder / name for name in names if name.startswith("epoch-") and name.removeprefix("epoch-").isdecimal()]
    return sorted(found, key=_epoch_of)


def _epoch_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("epoch-"))


def save_checkpoint(
    run: Path, epoch: int, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any], keep: int
) -> None:
    """Save the state after `epoch` epochs and remove all but the newest `keep`; the start, epoch 0, is only kept alone.

    Args:
        run: folder of the run.
        epoch: epochs finished.
        model: state dictionary of the network.
        optimizer: see `bitplane.train.resume`.
        state: JSON values.
        keep: at least 1.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_folder(run / "checkpoints" / f"epoch-{epoch:04d}", {"model": model, "optimizer": optimizer}, {"state": state})
    saved = checkpoints(run)
    for old in saved[:-keep] + [p for p in saved[-keep:-1] if _epoch_of(p) == 0]:
        with writing(old):
            remove_folder(old)
    sweep(run / "checkpoints")


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    found = checkpoints(run)
    if not found:
        raise CheckpointError(f"{run}: no checkpoint to resume from; remove the folder and start again without --resume")
    return found[-1]


def write_config(run: Path, config: TrainConfig) -> None:
    """Store a run's configuration, atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        replace_file(run / "config.json", _to_json(asdict(config)))


def read_config(run: Path) -> TrainConfig:
    """Read a run's configuration.

    Raises:
        CheckpointError: missing or damaged.
    """
    path = run / "config.json"
    values = read_json(path, dict[str, Any])
    try:
        return TrainConfig(**{k: _config_value(k, v) for k, v in values.items()})
    except (TypeError, ConfigError) as e:
        raise CheckpointError(f"{path}: not the configuration of a run of this version of bitplane ({e})") from e


_PARTS = {"model": ModelConfig, "data": DataConfig, "optimizer": OptimizerConfig, "recipe": RecipeConfig}


def _config_value(key: str, value: Any) -> Any:
    part = _PARTS.get(key)
    if part is None:
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"`{key}` must be an object")
    return part(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})


def read_json(path: Path, form: type[T]) -> T:
    """Read a JSON file of a run.

    Raises:
        CheckpointError: missing, damaged, or not of the type `form`.
    """
    if not _is_there(path):
        raise CheckpointError(f"{path}: is missing; is {path.parent} a run of `bitplane train`, and finished?")
    with enough_memory(f"{path}: reading it"):
        _check_sum(path, _read(path))
    return documents.read_json(path, form, DOCUMENT)


def read_result(run: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        CheckpointError: unfinished or damaged.
    """
    return read_json(run / "final" / "result.json", Result)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a run.

    Raises:
        CheckpointError: missing, damaged, or not what was written.
    """
    try:
        with enough_memory(f"{path}: reading it"):
            data = _read(path)
            _check_sum(path, data)
            return load(data)
    except (SafetensorError, ValueError, KeyError) as e:
        raise CheckpointError(f"{path}: missing or damaged ({e}); resume or train the run again") from e


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_TENSORS)
    except FileError as e:
        raise CheckpointError(f"{path}: missing or damaged ({e}); resume or train the run again") from e


def check_finite(values: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are infinite or NaN.

    Raises:
        CheckpointError: names the first tensor.
    """
    for key, value in values.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{path}: `{key}` has values that are not finite; restore the file or train again")
