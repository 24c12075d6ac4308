"""Opening a finished run of `bitplane.train`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.read.files import file_sha256


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        model: its final network.
        metadata: fields of `Origin`.
        images: its training images, uint8 [N, C, H, W].
    """

    model: nn.Module
    metadata: Mapping[str, Any]
    images: Tensor


def load_run(folder: Path) -> Run:
    """Load a run, and the data set that it was trained on.

    Raises:
        BitplaneError: the run is unfinished or damaged, or its data set is missing (`CheckpointError`, `DataError`).
    """
    from bitplane.train.checkpoint import load_final
    from bitplane.train.data import load_data

    model, config, result = load_final(folder)
    data = load_data(config.data)
    metadata = {
        "model": config.model.model,
        "method": config.optimizer.method,
        "dataset": data.name,
        "classes": tuple(result.get("classes", data.classes)),
        "accuracy": {k: result[k] for k in ("test_top1", "epochs") if k in result},
        "checkpoint_sha256": file_sha256(folder / "final" / "model.safetensors"),
    }
    return Run(model, metadata, data.train.images)


def evenly_spaced(images: Tensor, count: int) -> Tensor:
    """At most `count` images, evenly spaced.

    Raises:
        ExportError: `count` is not positive.
    """
    if count < 1:
        raise ExportError(f"`samples` (={count}) must be at least 1")
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
