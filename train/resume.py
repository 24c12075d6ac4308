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
from bitplane.train.checkpoint import load_weights, read_json, read_tensors
from bitplane.train.errors import CheckpointError
from bitplane.train.models import ResNet
from bitplane.train.optimizer import ProxOptimizer

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Real = Annotated[float, msgspec.Meta(ge=0)]


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


def restore(model: ResNet, optimizer: ProxOptimizer, folder: Path, processes: int) -> Progress:
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
    named, average = _named(model), optimizer.average
    for key, value in read_tensors(folder / "optimizer.safetensors").items():
        name, _, field = key.rpartition("/")
        if name not in named:
            raise CheckpointError(f"{folder / 'optimizer.safetensors'}: `{name}` is not a parameter of {model.config.model}")
        p = named[name]
        if field in ("latent", "average"):
            (optimizer.latent if field == "latent" else average)[p].copy_(value)
        else:
            optimizer.state[p][field] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value.to(p.device)
    optimizer.step_count, optimizer.average_weight = progress.step, progress.average_weight
    optimizer.refresh()
    return progress


def _named(model: nn.Module) -> dict[str, Tensor]:
    # Learned scales are buffers of the model and parameters of the optimizer.
    return dict(model.named_parameters()) | dict(model.named_buffers())
