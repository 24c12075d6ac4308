"""What a checkpoint holds beside the model: the optimizer by tensor names, counters, and where the run was made.

In optimizer.safetensors NAME/FIELD is the wrapped optimizer's state, NAME/latent and NAME/average are ProxOptimizer's;
state.json is a `Progress`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from bitplane.train.activations import LearnedStep
from bitplane.train.checkpoint import read_json, read_tensors
from bitplane.train.errors import CheckpointError
from bitplane.train.models import Model
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.weights import load_weights, present_name

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Real = Annotated[float, msgspec.Meta(ge=0)]


STEPS = "step"
"""Adam's count of steps: the one number in an optimizer's state of a tensor."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: epochs finished.
        step: gradient steps taken.
        average_weight: sum of the learning rates of the averaged iterates.
        seconds: of training, over all sessions.
        processes: number of processes that share a batch.
        bits: present bits of the learned steps; 0 where there are none.
    """

    epoch: Whole = 0
    step: Whole = 0
    average_weight: Real = 0.0
    seconds: Real = 0.0
    processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    bits: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0


def optimizer_tensors(model: nn.Module, optimizer: ProxOptimizer) -> dict[str, Tensor]:
    """The optimizer's state keyed by NAME/FIELD; numbers become scalars."""
    tensors = {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, p in _named(model).items()
        for key, value in optimizer.state.get(p, {}).items()
        if value is not None
    }
    for field, kept in (("latent", optimizer.latent), ("average", optimizer.average)):
        tensors |= {f"{name}/{field}": kept[p] for name, p in _named(model).items() if p in kept}
    return tensors


def restore(model: Model, optimizer: ProxOptimizer, folder: Path, processes: int) -> Progress:
    """Load a checkpoint into a model and its optimizer.

    Raises:
        CheckpointError: damaged, of another model, or of a run with another number of processes.
    """
    progress = read_json(folder / "state.json", Progress)
    if progress.processes != processes:
        raise CheckpointError(
            f"{folder}: was written by {progress.processes} processes, not {processes}; resume with accelerate launch"
            f" --num_processes {progress.processes}"
        )
    load_weights(model, folder / "model.safetensors")
    for m in model.modules():
        if isinstance(m, LearnedStep) and progress.bits:
            m.bits = progress.bits
    file, named = folder / "optimizer.safetensors", _named(model)
    kept = {"latent": optimizer.latent, "average": optimizer.average}
    values = {present_name(model, k): v for k, v in read_tensors(file).items()}
    for field, tensors in kept.items():
        for name, p in named.items():
            if p in tensors and f"{name}/{field}" not in values:
                raise CheckpointError(f"{file}: `{name}/{field}` is missing; resume from an older checkpoint")
    for key, value in values.items():
        name, _, field = key.rpartition("/")
        if name not in named or (field in kept and named[name] not in kept[field]):
            raise CheckpointError(f"{file}: `{key}` is nothing that {model.config.model} and its optimizer have")
        p = named[name]
        if (value.shape, value.dtype) != (p.shape, p.dtype) and field != STEPS:
            raise CheckpointError(
                f"{file}: `{key}` is {value.dtype} {list(value.shape)}, `{name}` is {p.dtype} {list(p.shape)}"
            )
        if field in kept:
            kept[field][p].copy_(value)
        else:
            optimizer.state[p][field] = torch.empty_like(p).copy_(value) if field != STEPS else value.to(p.device)
    optimizer.update.restore(progress.step, progress.average_weight)
    optimizer.refresh()
    return progress


def _named(model: nn.Module) -> dict[str, Tensor]:
    # Learned scales are buffers of the model and parameters of the optimizer.
    return dict(model.named_parameters()) | dict(model.named_buffers())
