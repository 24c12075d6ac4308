"""Opening a finished run of `bitplane.train`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.read.construction import Normalization
from bitplane.export.read.files import file_sha256
from bitplane.train.models import ModelConfig


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        model: its final network.
        normalize: mean and standard deviation in pixels, of a network that takes normalized floats.
        metadata: fields of `Origin`.
        images: its training images, uint8 [N, C, H, W].
    """

    model: nn.Module
    normalize: Normalization | None
    metadata: Mapping[str, Any]
    images: Tensor


def load_run(folder: Path, name: str = "") -> Run:
    """Load a run, and the data set that it was trained on.

    Args:
        folder: of the run.
        name: of a network that a Python file makes, FILE.py:FUNCTION; the file is run. Of any other run, its network's or "".

    Raises:
        BitplaneError: the run is unfinished or damaged, its data set is missing, or its network is of a Python file and `name`
            does not name it (`CheckpointError`, `DataError`, `ConfigError`).
    """
    from bitplane.train.data import load_data
    from bitplane.train.models import PixelNetwork
    from bitplane.train.models.python_file import read_python
    from bitplane.train.weights import load_final

    code = read_python(ModelConfig(model=name)) if name else None
    model, config, result = load_final(folder, code)
    if name and config.model.source.kind != "file" and name != config.model.model:
        raise ExportError(f"{folder}: is a run of {config.model.model}, not of {name}; leave out --model")
    data = load_data(config.data)
    metadata = {
        "model": config.model.source.label,
        "method": config.optimizer.method,
        "dataset": data.name,
        "classes": tuple(result.get("classes", data.classes)),
        "accuracy": {k: result[k] for k in ("test_top1", "epochs") if k in result},
        "checkpoint_sha256": file_sha256(folder / "final" / "model.safetensors"),
    }
    if isinstance(model, PixelNetwork):  # its layers keep the names that they have in the network itself
        c = config.model
        normalize = ([float(c.zero_point)] * c.channels, [c.pixel_scale] * c.channels)
        return Run(model.network, normalize, metadata, data.train.images)
    return Run(model, None, metadata, data.train.images)


def evenly_spaced(images: Tensor, count: int) -> Tensor:
    """At most `count` images, evenly spaced.

    Raises:
        ExportError: `count` is not positive.
    """
    if count < 1:
        raise ExportError(f"`samples` (={count}) must be at least 1")
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
