"""Runs on disk: safetensors and JSON only, every folder complete or absent.

    RUN/config.json                      TrainConfig
    RUN/log.jsonl                        one object an epoch
    RUN/checkpoints/epoch-0007/          model.safetensors, optimizer.safetensors, state.json: what resuming needs;
                                         epoch-0000 is the start of the run, written before config.json
    RUN/final/                           model.safetensors (weights exactly in the level set), result.json: what export reads

A folder is written under a temporary name, synced and renamed; only then are older ones removed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitplane import documents
from bitplane.train.config import MOST, DataConfig, ModelConfig, OptimizerConfig, RecipeConfig, TrainConfig
from bitplane.train.errors import CheckpointError, ConfigError
from bitplane.train.models import ResNet, build_model

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
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Say in one line that `path` cannot be written.

    Args:
        path: what the block writes.
        temporary: file or folder to remove if it cannot.

    Raises:
        CheckpointError: the block met an error of the file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as e:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written ({e}); free some space or choose another folder") from e


def write_folder(path: Path, tensors: dict[str, dict[str, Tensor]], documents: dict[str, Any]) -> None:
    """Write a folder of safetensors and JSON files atomically, replacing an old one.

    Args:
        path: the folder.
        tensors: file stem to named tensors.
        documents: file stem to a JSON value.

    Raises:
        CheckpointError: the disk is full or not writable; nothing half written stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for stem, values in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, temporary / f"{stem}.safetensors")
        for stem, value in documents.items():
            (temporary / f"{stem}.json").write_text(json.dumps(value, indent=1) + "\n")
        for file in [*temporary.iterdir(), temporary]:
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(path.parent)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: by the number of their epoch, which has more than four digits some day."""
    found = [p for p in (run / "checkpoints").glob("epoch-*") if p.name.removeprefix("epoch-").isdecimal()]
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
            shutil.rmtree(old)


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
    temporary = run / ".config.json.tmp"
    with writing(run, temporary):
        run.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(config), indent=1) + "\n")
        _sync(temporary)
        temporary.rename(run / "config.json")


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
    if not path.exists():
        raise CheckpointError(f"{path}: is missing; is {path.parent} a run of `bitplane train`, and finished?")
    return documents.read_json(path, form, DOCUMENT)


def read_result(run: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        CheckpointError: unfinished or damaged.
    """
    return read_json(run / "final" / "result.json", Result)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a run."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise CheckpointError(f"{path}: is not a regular file; give the weights of a run")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path}: missing or damaged ({e}); resume or train the run again") from e


def check_finite(values: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are infinite or NaN.

    Raises:
        CheckpointError: names the first tensor.
    """
    for key, value in values.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{path}: `{key}` has values that are not finite; restore the file or train again")


def load_weights(model: ResNet, path: Path, *, lenient: bool = False) -> list[str]:
    """Load a state dictionary.

    Args:
        model: the network; level scales and learned steps absent from the file are left alone if `lenient`.
        path: a model.safetensors.
        lenient: accept a network of the same shape with other levels or activations, and one with fewer blocks in its stages,
            whose function the deeper model then starts from: blocks that the file lacks start as the identity (Net2DeeperNet;
            Chen, Goodfellow, Shlens, ICLR 2016).

    Returns:
        Names of the model's tensors that the file did not have.

    Raises:
        CheckpointError: the file belongs to another model.
    """
    values, own = read_tensors(path), model.state_dict()
    # `num_batches_tracked` only matters while BatchNorm averages; older files of torchvision lack it.
    extra = ("level_scale", ".step", ".threshold", ".act1.weight", ".act2.weight", ".act3.weight")
    extra += ("input.zero_point", "input.scale", ".num_batches_tracked")
    wrong = [k for k in own.keys() & values.keys() if own[k].shape != values[k].shape and not (lenient and k.endswith(extra))]
    new_blocks = {n: b for n, b in model.blocks() if lenient and not any(k.startswith(f"{n}.") for k in values)}
    extra_blocks = tuple(f"{n}." for n in new_blocks if not n.endswith(".0"))
    missing = [k for k in own.keys() ^ values.keys() if not (lenient and (k.endswith(extra) or k.startswith(extra_blocks)))]
    if wrong or missing:
        k = sorted(wrong + missing)[0]
        had = list(values[k].shape) if k in values else "absent"
        want = list(own[k].shape) if k in own else "absent"
        raise CheckpointError(f"{path}: belongs to another model: `{k}` is {had} there and {want} in {model.config.model}")
    usable = {k: v for k, v in values.items() if k in own and own[k].shape == v.shape}
    for k, v in usable.items():
        floats = v.is_floating_point() and own[k].is_floating_point()
        if v.dtype != own[k].dtype and not (floats and lenient):
            raise CheckpointError(f"{path}: `{k}` is {v.dtype} there and {own[k].dtype} in {model.config.model}")
    check_finite(usable, path)
    model.load_state_dict(usable, strict=False)
    for block in new_blocks.values():
        block.start_as_identity()
    return sorted(own.keys() - usable.keys())


def load_final(run: Path) -> tuple[ResNet, TrainConfig, Result]:
    """The finished network of a run in eval mode, its configuration, and its result.

    Raises:
        CheckpointError: the run is missing, unfinished, damaged, or of another model.
    """
    config = read_config(run)
    result = read_result(run)
    model = build_model(config.model)
    load_weights(model, run / "final" / "model.safetensors")
    return model.eval(), config, result


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
