"""A network, from wherever it comes, to one checked ONNX file.

source -> read (and check) -> quantize -> write_model -> verify -> metadata -> write_atomically
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.nodes.conv import Conv
from bitplane.export.passes.names import free_output_name
from bitplane.export.passes.quantize import Quantization, kept_layers, quantize
from bitplane.export.passes.widen import widen_kernels
from bitplane.export.qonnx import runnable
from bitplane.export.read.construction import Normalization
from bitplane.export.read.files import file_sha256, load_onnx
from bitplane.export.read.runs import evenly_spaced, load_run
from bitplane.export.read.source import check_samples, read_source
from bitplane.export.read.torchvision import IMAGENET, load_torchvision
from bitplane.export.report import ExportReport, make_report, report_layers
from bitplane.export.verify import verify
from bitplane.export.write.file import write_atomically
from bitplane.export.write.forms import FORMS, Form, write_model
from bitplane.export.write.metadata import make_metadata, make_origin

KEEP_ALL = Quantization()
RUN_SAMPLES = 256
"""Training images of a run that are used where no samples are given."""


@dataclass(frozen=True)
class _Options:
    """The options of an export, as `to_onnx` explains them."""

    quantization: Quantization = KEEP_ALL
    normalize: Normalization | None = None
    form: Form = "packed"
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    force: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ExportError(f"`form` (={self.form!r}) must be packed, inlined, dequantized or qonnx")


def to_onnx(
    source: nn.Module | onnx.ModelProto,
    samples: Tensor | np.ndarray,
    path: str | Path,
    *,
    quantization: Quantization = KEEP_ALL,
    normalize: Normalization | None = None,
    form: Form = "packed",
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> ExportReport:
    """Write a network as one ONNX file (`FORMAT.md`).

    Low-bit weights stay as they were trained; what else is quantized, and how, says `quantization`. A network without any
    low-bit weight becomes a plain float32 file in every form but "packed" with `quantization.weights`.

    Args:
        source: a torch module whose forward torch.fx can trace, or a float ONNX or QONNX model; not modified.
        samples: real images [N, C, H, W] as the network takes them: uint8 pixels, or float32 where it takes floats and no
            `normalize` is given. They calibrate activations and check the file; a few hundred are plenty.
        path: where to write.
        quantization: what is quantized after training; by default nothing but the first and last layer (8 bits) and the
            activations that low-bit weights read (8 bits, calibrated).
        normalize: mean and standard deviation in pixels, of a network that takes normalized floats: the file takes pixels.
        form: "packed" (functions of domain `bitplane`), "inlined" (the same with its functions expanded), "dequantized" (plain
            weights and standard float operators), or "qonnx".
        metadata: fields of `Origin`; all are optional.
        force: replace a file at `path`, once the new one is complete.

    Raises:
        ExportError: a layer is not supported, weights are off the level set, an argument does not fit the network, the file
            does not compute what the network does, or it cannot be written. Nothing is left behind.
    """
    return _export(source, samples, Path(path), _Options(quantization, normalize, form, metadata or {}, force))


def export_run(
    source: str | Path,
    samples: Tensor | np.ndarray | None,
    path: str | Path,
    *,
    quantization: Quantization = KEEP_ALL,
    normalize: Normalization | None = None,
    form: Form = "packed",
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
    count: int = RUN_SAMPLES,
) -> ExportReport:
    """Export a finished run of `bitplane.train`.

    Args:
        source: folder of the run, with `config.json` and `final/`.
        samples: as in `to_onnx`; None for `count` training images of the run's own data set, evenly spaced.
        path: as in `to_onnx`.
        quantization: as in `to_onnx`.
        normalize: as in `to_onnx`.
        form: as in `to_onnx`.
        metadata: as in `to_onnx`, in place of what the run says.
        force: as in `to_onnx`.
        count: images that are taken where `samples` is None.

    Raises:
        BitplaneError: the run is unfinished or damaged, or its data set is missing (`CheckpointError`, `DataError`); or what
            `to_onnx` raises.
    """
    run = load_run(Path(source))
    images = evenly_spaced(run.images, count) if samples is None else samples
    options = _Options(quantization, normalize, form, {**run.metadata, **(metadata or {})}, force)
    return _export(run.model, images, Path(path), options)


def export_file(
    source: str | Path,
    samples: Tensor | np.ndarray,
    path: str | Path,
    *,
    quantization: Quantization = KEEP_ALL,
    normalize: Normalization | None = None,
    form: Form = "packed",
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> ExportReport:
    """Export an ONNX or QONNX file, or a torchvision ResNet-18, 34 or 50 `state_dict` in safetensors.

    Args:
        source: the file.
        samples: as in `to_onnx`; pixels for a `state_dict`.
        path: as in `to_onnx`.
        quantization: as in `to_onnx`.
        normalize: as in `to_onnx`; torchvision's of a `state_dict` by default.
        form: as in `to_onnx`.
        metadata: as in `to_onnx`, in place of what the file says.
        force: as in `to_onnx`.

    Raises:
        BitplaneError: the file cannot be read; or what `to_onnx` raises.
    """
    file = Path(source)
    network: nn.Module | onnx.ModelProto
    if file.suffix == ".onnx":
        network, name = load_onnx(file), file.stem
    else:
        network, normalize = load_torchvision(file), normalize or IMAGENET
        name = network.config.model
        # The module itself takes normalized floats; `normalize` says how pixels become them.
        network.set_submodule("input", nn.Identity())
    known = {"model": name, "checkpoint_sha256": file_sha256(file)}
    options = _Options(quantization, normalize, form, {**known, **(metadata or {})}, force)
    return _export(network, samples, Path(path), options)


def _export(source: nn.Module | onnx.ModelProto, samples: Tensor | np.ndarray, path: Path, options: _Options) -> ExportReport:
    if path.exists() and not options.force:
        raise ExportError(f"{path}: exists; add --force (force=True) to replace it, or choose another path")
    images = torch.as_tensor(samples).cpu()
    check_samples(images)
    read = read_source(source, images, options.normalize)
    origin = make_origin(read.network, options.metadata)
    how, form = options.quantization, options.form
    kept_layers(read.network, how)  # refuses a pattern that names nothing
    has_integers = any(isinstance(n, Conv) and n.weight.integers is not None for n in read.network.nodes)
    is_float = how.weights == "keep" and not has_integers
    network = read.network if is_float else quantize(read.network, how, read.images)
    network = free_output_name(network if is_float else widen_kernels(network))
    file, written = write_model(network, "dequantized" if is_float and form == "packed" else form)
    verification = verify(runnable(file), network, read.images, read.logits)
    properties = make_metadata(file, network, origin, read.normalize, verification)
    onnx.helper.set_model_props(file, properties)
    data = file.SerializeToString(deterministic=True)
    write_atomically(path, data)
    return make_report(str(path), form, len(data), verification, report_layers(file, network, written))
