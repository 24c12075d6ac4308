"""A network, from wherever it comes, to one checked ONNX file.

source -> read_* -> fold_affine -> [check_reading] -> quantize -> write_* -> [verify] -> metadata -> write_atomically
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
import torch
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.floating import write_dequantized
from bitplane.export.network import Conv, Network, Quantize, Sign
from bitplane.export.packed import Written, write_packed
from bitplane.export.qonnx import runnable, write_qonnx
from bitplane.export.quantize import Quantization, kept_layers, quantize
from bitplane.export.read import Read, check_samples, read
from bitplane.export.reading import Normalization
from bitplane.export.sources import IMAGENET, file_sha256, load_onnx, load_torchvision
from bitplane.export.verify import Verification, verify
from bitplane.export.write import write_atomically
from bitplane.format import names as fmt
from bitplane.format.checksums import planes_sha256, weights_sha256
from bitplane.format.levels import LEVEL_SETS

Form = Literal["packed", "inlined", "dequantized", "qonnx"]
KEEP_ALL = Quantization()
BATCH = 8


@dataclass(frozen=True)
class Origin:
    """Where a network comes from: what goes into the file's metadata.

    Attributes:
        model: name of the architecture.
        method: update rule.
        dataset: name of the data set.
        classes: class names in the order of the logits; empty for "0", "1", ...
        accuracy: what training measured, such as {"test_top1": 0.91, "epochs": 40}; JSON values.
        checkpoint_sha256: hexadecimal SHA-256 of the file that the weights came from.
    """

    model: str = ""
    method: str = ""
    dataset: str = ""
    classes: tuple[str, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    checkpoint_sha256: str = ""


@dataclass(frozen=True)
class LayerReport:
    """One convolution or fully connected layer of the file.

    Attributes:
        name: its name.
        operator: operator that computes it.
        levels: level set of its weight, "int8" or "float".
        weight_shape: [O, C / group, kh, kw].
        bytes: of its weight, scale and bias in the file.
        reason: why it computes in floating point; "" if it does not.
    """

    name: str
    operator: str
    levels: str
    weight_shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares with the source.

    Attributes:
        path: the file.
        form: "packed", "inlined", "dequantized" or "qonnx".
        bytes: its size.
        samples: images of the self-check.
        top1_agreement: part of the samples on which onnxruntime on the file and the source name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against the quantized network with the file's activation codes: rounding only.
        reference_max_logit_difference: the same.
        reference_code_mismatch: largest share of a quantizer's codes that differ from that reference's.
        layers: the convolutions and fully connected layers in order.
    """

    path: str
    form: str
    bytes: int
    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float
    reference_code_mismatch: float
    layers: tuple[LayerReport, ...]


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
    target = Path(path)
    if target.exists() and not force:
        raise ExportError(f"{target}: exists; add --force (force=True) to replace it, or choose another path")
    if form not in ("packed", "inlined", "dequantized", "qonnx"):
        raise ExportError(f"`form` (={form!r}) must be packed, inlined, dequantized or qonnx")
    images = torch.as_tensor(samples).cpu()
    check_samples(images)
    reading = read(source, images, normalize)
    origin = _origin(reading.network, metadata or {})
    kept_layers(reading.network, quantization)  # refuses a pattern that names nothing
    low_bit = (n for n in reading.network.nodes if isinstance(n, Conv) and n.weight.integers is not None)
    is_float = quantization.weights == "keep" and next(low_bit, None) is None
    network = reading.network if is_float else quantize(reading.network, quantization, reading.images)
    file, written = _write(network, "dequantized" if is_float and form == "packed" else form)
    verification = verify(runnable(file) if form == "qonnx" else file, network, reading.images, reading.logits)
    onnx.helper.set_model_props(file, _metadata(file, network, origin, reading, verification))
    data = file.SerializeToString(deterministic=True)
    write_atomically(target, data)
    return ExportReport(str(target), form, len(data), **asdict(verification), layers=_layers(file, network, written))


def export_run(
    run_dir: str | Path,
    out_path: str | Path,
    samples: int = 256,
    *,
    quantization: Quantization = KEEP_ALL,
    form: Form = "packed",
    force: bool = False,
) -> ExportReport:
    """Export a finished run of `bitplane.train`.

    Args:
        run_dir: folder of the run, with `config.json` and `final/`.
        out_path: where to write the ONNX file.
        samples: training images, evenly spaced, that calibrate and check the file.
        quantization: as in `to_onnx`.
        form: as in `to_onnx`.
        force: as in `to_onnx`.

    Raises:
        BitplaneError: the run is unfinished or damaged, or its data set is missing (`CheckpointError`, `DataError`); or what
            `to_onnx` raises.
    """
    from bitplane.train.checkpoint import load_final
    from bitplane.train.data import load_data

    run = Path(run_dir)
    model, config, result = load_final(run)
    data = load_data(config.data)
    metadata = {
        "model": config.model.model,
        "method": config.optimizer.method,
        "dataset": data.name,
        "classes": tuple(result.get("classes", data.classes)),
        "accuracy": {k: result[k] for k in ("test_top1", "epochs") if k in result},
        "checkpoint_sha256": file_sha256(run / "final" / "model.safetensors"),
    }
    images = evenly(data.train.images, samples)
    return to_onnx(model, images, out_path, quantization=quantization, form=form, metadata=metadata, force=force)


def export_file(
    source: str | Path,
    out_path: str | Path,
    samples: Tensor | np.ndarray,
    *,
    quantization: Quantization = KEEP_ALL,
    form: Form = "packed",
    normalize: Normalization | None = None,
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> ExportReport:
    """Export an ONNX or QONNX file, or a torchvision ResNet-18, 34 or 50 `state_dict` in safetensors.

    Args:
        source: the file.
        out_path: where to write.
        samples: images as in `to_onnx`; pixels for a `state_dict`.
        quantization: as in `to_onnx`.
        form: as in `to_onnx`.
        normalize: as in `to_onnx`; torchvision's of a `state_dict` by default.
        metadata: fields of `Origin`.
        force: as in `to_onnx`.

    Raises:
        BitplaneError: the file cannot be read; or what `to_onnx` raises.
    """
    path = Path(source)
    network: nn.Module | onnx.ModelProto
    if path.suffix == ".onnx":
        network, name = load_onnx(path), path.stem
    else:
        network, normalize = load_torchvision(path), normalize or IMAGENET
        name = network.config.model
        # The module itself takes normalized floats; `normalize` says how pixels become them.
        network.set_submodule("input", nn.Identity())
    return to_onnx(
        network,
        samples,
        out_path,
        quantization=quantization,
        normalize=normalize,
        form=form,
        metadata={"model": name, "checkpoint_sha256": file_sha256(path), **(metadata or {})},
        force=force,
    )


def evenly(images: Tensor, count: int) -> Tensor:
    """At most `count` images, evenly spaced."""
    if count < 1:
        raise ExportError(f"`samples` (={count}) must be at least 1")
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


def _write(network: Network, form: Form) -> tuple[onnx.ModelProto, dict[str, Written]]:
    if form in ("packed", "inlined"):
        file, written = write_packed(network)
        return (file if form == "packed" else onnx.inliner.inline_local_functions(file)), written
    file = write_dequantized(network) if form == "dequantized" else write_qonnx(network)
    reason = "the form is dequantized" if form == "dequantized" else "the form is QONNX"
    return file, {n.name: Written("Conv", reason) for n in network.nodes if isinstance(n, Conv)}


def _origin(network: Network, metadata: Mapping[str, Any]) -> Origin:
    unknown = sorted(set(metadata) - {f.name for f in fields(Origin)})
    if unknown:
        raise ExportError(f"metadata: unknown key {unknown[0]!r}; known are {', '.join(f.name for f in fields(Origin))}")
    origin = Origin(**metadata)
    if origin.classes and len(origin.classes) != network.classes:
        raise ExportError(
            f"metadata: `classes` has {len(origin.classes)} names for {network.classes} logits; give one name each"
        )
    return replace(origin, model=origin.model or network.name)


def _metadata(
    file: onnx.ModelProto, network: Network, origin: Origin, reading: Read, verification: Verification
) -> dict[str, str]:
    channels, *size = network.input_shape
    pixels: dict[str, Any] = {"size": size, "channels": channels}
    if reading.normalize is not None:
        mean, std = reading.normalize
        pixels |= {"mean": mean, "std": std}
        if len(set(mean)) == len(set(std)) == 1 and mean[0].is_integer():
            pixels |= {"zero_point": int(mean[0]), "scale": std[0]}
    convs = [n for n in network.nodes if isinstance(n, Conv)]
    producers = network.producers()
    levels = {c.weight.levels for c in convs if c.weight.levels in LEVEL_SETS} or {"float"}
    bits = {
        1 if isinstance(q, Sign) else (q.high - q.low).bit_length()
        for c in convs
        if c.weight.levels in LEVEL_SETS and isinstance(q := producers.get(c.source), Quantize | Sign)
    } or {32}
    return {
        fmt.META_FORMAT_VERSION: fmt.FORMAT_VERSION,
        fmt.META_MODEL: origin.model,
        fmt.META_METHOD: origin.method,
        fmt.META_LEVEL_SET: levels.pop() if len(levels) == 1 else "mixed",
        fmt.META_ACTIVATION_BITS: str(bits.pop()) if len(bits) == 1 else "mixed",
        fmt.META_DATASET: origin.dataset,
        fmt.META_CLASSES: json.dumps(list(origin.classes) or [str(i) for i in range(network.classes)]),
        fmt.META_INPUT: json.dumps(pixels),
        fmt.META_ACCURACY: json.dumps(dict(origin.accuracy or {})),
        fmt.META_PLANES_SHA256: planes_sha256(file.graph),
        fmt.META_WEIGHTS_SHA256: weights_sha256(file.graph),
        fmt.META_CHECKPOINT_SHA256: origin.checkpoint_sha256,
        fmt.META_VERIFICATION: json.dumps(asdict(verification)),
    }


def _layers(file: onnx.ModelProto, network: Network, written: Mapping[str, Written]) -> tuple[LayerReport, ...]:
    sizes = {t.name: prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in file.graph.initializer}
    layers: list[LayerReport] = []
    for conv in (n for n in network.nodes if isinstance(n, Conv)):
        own = sum(size for name, size in sizes.items() if name.rpartition(".")[0] == conv.name)
        how = written[conv.name]
        layers.append(LayerReport(conv.name, how.operator, conv.weight.levels, conv.weight.shape, own, how.reason))
    return tuple(layers)
