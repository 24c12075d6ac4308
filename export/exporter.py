"""A network, from wherever it comes, to one checked ONNX file.

source -> read_source -> quantize -> write_model -> verify -> metadata -> a session of bitplane.runtime -> sign -> write
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitplane.atomic import write_file
from bitplane.errors import BitplaneError
from bitplane.export.errors import ExportError, first_line
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
from bitplane.export.report import ExportReport, LayerReport, report_layers
from bitplane.export.verify import Verification, verify
from bitplane.export.write.forms import FORMS, Form, write_model
from bitplane.export.write.metadata import make_metadata, make_origin
from bitplane.format import names as fmt
from bitplane.format.checksums import serialize
from bitplane.signature import SUFFIX, sign

KEEP_ALL = Quantization()
_ON_INTEGERS = {fmt.PIXEL_CONV, *fmt.LOW_BIT_CONV.values()}
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
    allow_unrunnable: bool = False
    sign_key: str | Path | None = None

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
    allow_unrunnable: bool = False,
    sign_key: str | Path | None = None,
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
        allow_unrunnable: also write a packed file that `bitplane.runtime` cannot run although layers compute on integers,
            because of an operator that it keeps; the report says why.
        sign_key: private key (PEM, without a password) by which the file is signed; the signature is `path` + ".sig"
            (`bitplane.signature`).

    Raises:
        ExportError: a layer is not supported, weights are off the level set, an argument does not fit the network, the file
            does not compute what the network does, `bitplane.runtime` cannot run it, or it cannot be written. Nothing is left
            behind.
        SignatureError: the key cannot be used; nothing is written.
    """
    return _export(
        source,
        samples,
        Path(path),
        _Options(quantization, normalize, form, metadata or {}, force, allow_unrunnable, sign_key),
    )


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
    allow_unrunnable: bool = False,
    sign_key: str | Path | None = None,
    count: int = RUN_SAMPLES,
    model: str = "",
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
        allow_unrunnable: as in `to_onnx`.
        sign_key: as in `to_onnx`.
        count: images that are taken where `samples` is None.
        model: of a run whose network a Python file makes, that file and function, FILE.py:FUNCTION. It is run; a folder alone
            never has a file run.

    Raises:
        BitplaneError: the run is unfinished or damaged, or its data set is missing (`CheckpointError`, `DataError`); or what
            `to_onnx` raises.
    """
    run = load_run(Path(source), model)
    images = evenly_spaced(run.images, count) if samples is None else samples
    known = {**run.metadata, **(metadata or {})}
    options = _Options(quantization, normalize or run.normalize, form, known, force, allow_unrunnable, sign_key)
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
    allow_unrunnable: bool = False,
    sign_key: str | Path | None = None,
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
        allow_unrunnable: as in `to_onnx`.
        sign_key: as in `to_onnx`.

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
    options = _Options(quantization, normalize, form, {**known, **(metadata or {})}, force, allow_unrunnable, sign_key)
    return _export(network, samples, Path(path), options)


def _export(source: nn.Module | onnx.ModelProto, samples: Tensor | np.ndarray, path: Path, options: _Options) -> ExportReport:
    signature = path.with_name(path.name + SUFFIX) if options.sign_key is not None else None
    for made in (path, signature):
        if made is not None and _exists(made) and not options.force:
            raise ExportError(f"{made}: exists; add --force (force=True) to replace it, or choose another path")
    if options.sign_key is not None:
        sign(b"", path.name, options.sign_key)  # a key that cannot be used is refused before the work
    with _refusing(source):
        images = torch.as_tensor(samples).cpu()
        check_samples(images)
        file, report = _convert(source, images, options)
        data = serialize(file)
    unrunnable = _why_unrunnable(data, options.form, report)
    on_integers = any(layer.operator in _ON_INTEGERS for layer in report.layers)
    if unrunnable and on_integers and options.form == "packed" and not options.allow_unrunnable:
        raise ExportError(
            f"{report.name}: bitplane.runtime cannot run the file ({unrunnable}); add --allow-unrunnable"
            " (allow_unrunnable=True) to write it for other engines"
        )
    signed = b"" if options.sign_key is None else sign(data, path.name, options.sign_key)
    write_file(path, data, ExportError)
    if signature is not None:  # after the file: an older file keeps its signature until it is replaced
        write_file(signature, signed, ExportError)
    return ExportReport(
        str(path), options.form, len(data), **asdict(report.verification), unrunnable=unrunnable, layers=report.layers
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as e:
        raise ExportError(f"{path}: cannot be written ({e.strerror or e}); choose another path") from e


@contextmanager
def _refusing(source: nn.Module | onnx.ModelProto) -> Iterator[None]:
    """Whatever torch, onnx, onnxruntime or numpy raise at a source is a refusal of it."""
    try:
        yield
    except BitplaneError:
        raise
    except Exception as e:
        name = source.graph.name or "model" if isinstance(source, onnx.ModelProto) else type(source).__name__
        raise ExportError(
            f"{name}: cannot be exported ({type(e).__name__}: {first_line(e)}); check the network and the samples"
        ) from e


@dataclass(frozen=True)
class _Converted:
    """What is known of a file before it is written: its name, its check, its layers, and whether it is a float network's."""

    name: str
    verification: Verification
    layers: tuple[LayerReport, ...]
    is_float: bool


def _convert(source: nn.Module | onnx.ModelProto, images: Tensor, options: _Options) -> tuple[onnx.ModelProto, _Converted]:
    """The checked model of a source."""
    read = read_source(source, images, options.normalize)
    origin = make_origin(read.network, options.metadata)
    how, form = options.quantization, options.form
    kept_layers(read.network, how)  # refuses a pattern that names nothing
    has_integers = any(isinstance(n, Conv) and n.weight.integers is not None for n in read.network.nodes)
    is_float = how.weights == "keep" and not has_integers
    network = read.network if is_float else widen_kernels(quantize(read.network, how, read.images))
    network = free_output_name(network)
    file, written = write_model(network, "dequantized" if is_float and form == "packed" else form)
    verification = verify(runnable(file), network, read.images, read.logits)
    onnx.helper.set_model_props(file, make_metadata(file, network, origin, read.normalize, verification))
    return file, _Converted(network.name, verification, report_layers(file, network, written), is_float)


def _why_unrunnable(data: bytes, form: Form, converted: _Converted) -> str:
    """Why `bitplane.runtime` does not run a file; "" if it does."""
    if form != "packed":
        return f"the form is {form}, for other engines"
    if converted.is_float:
        return "no weight is quantized: a plain float32 file for other engines"
    from bitplane.runtime import InferenceSession

    try:
        InferenceSession(data, threads=1)
    except BitplaneError as e:
        return first_line(e).removeprefix("<bytes>: ").partition("; export it again")[0]
    return ""
