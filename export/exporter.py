"""A trained network, in memory or in the folder of a run, to one checked and packed ONNX file."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from bitplane.export.calibrate import calibrate
from bitplane.export.errors import ExportError
from bitplane.export.fold import level_integers
from bitplane.export.graph import build_graph
from bitplane.export.verify import Verification, verify
from bitplane.export.write import write_atomically
from bitplane.runtime import format as fmt
from bitplane.train.models import ResNet


@dataclass(frozen=True)
class Origin:
    """Where a network comes from; the keys of `export_model`'s metadata.

    Attributes:
        method: update rule.
        dataset: name of the data set.
        classes: class names in the order of the logits; empty for "0", "1", ...
        accuracy: what training measured, such as {"test_top1": 0.91, "epochs": 40}; JSON values.
        checkpoint_sha256: hexadecimal SHA-256 of the checkpoint's `model.safetensors`.
    """

    method: str = ""
    dataset: str = ""
    classes: tuple[str, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    checkpoint_sha256: str = ""


@dataclass(frozen=True)
class LayerReport:
    """One convolution of the file: its name, operator, weight shape [O, C, kh, kw], and bytes of weights, scale and bias."""

    name: str
    operator: str
    weight_shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares with PyTorch.

    Attributes:
        path: the file.
        bytes: its size.
        samples: images of the self-check.
        top1_agreement: part of the samples on which onnxruntime on the file and the trained network name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against PyTorch with the file's int8 stem and activation codes: rounding only.
        reference_max_logit_difference: the same.
        reference_code_mismatch: largest share of a quantizer's codes that differ from that reference's.
        layers: the convolutions in order.
    """

    path: str
    bytes: int
    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float
    reference_code_mismatch: float
    layers: tuple[LayerReport, ...]


def export_model(model: ResNet, metadata: Mapping[str, Any], samples: Tensor, path: str | Path) -> ExportReport:
    """Pack a network into one ONNX file (`FORMAT.md`); a network of float weights becomes a plain float32 file.

    Args:
        model: the network, with its weights in the level set; not modified.
        metadata: fields of `Origin`; all are optional.
        samples: uint8 [N, C, H, W], real images of the size to export for: they calibrate float activations and check the file.
        path: where to write; an existing file is replaced once the new one is complete.

    Raises:
        ExportError: weights are off the level set, an argument does not fit the network, the file does not compute what the
            network does, or it cannot be written. Nothing is left behind.
    """
    origin = _origin(model, metadata)
    _check_samples(model, samples)
    samples = samples.cpu()
    trained = copy.deepcopy(model).cpu().float().eval()
    is_float = model.config.weights == "float"
    needs_codes = trained.config.activations == 32 and not is_float
    for name, conv in trained.low_bit_layers().items():
        level_integers(name, conv)  # refuse an unfinished network before the samples are run
    source = calibrate(trained, samples) if needs_codes else trained
    size = (int(samples.shape[2]), int(samples.shape[3]))
    file, planes = build_graph(source, size)
    verification = verify(file, trained, source, samples)
    onnx.helper.set_model_props(file, _metadata(source, origin, size, planes, verification))
    data = file.SerializeToString(deterministic=True)
    write_atomically(Path(path), data)
    return ExportReport(str(path), len(data), **asdict(verification), layers=_layers(file))


def export_run(run_dir: str | Path, out_path: str | Path, samples: int = 256) -> ExportReport:
    """Export a finished run of `bitplane.train`.

    Args:
        run_dir: folder of the run, with `config.json` and `final/`.
        out_path: where to write the ONNX file.
        samples: training images, evenly spaced, that calibrate and check the file.

    Raises:
        BitplaneError: the run is unfinished or damaged, or its data set is missing (`CheckpointError`, `DataError`); or what
            `export_model` raises.
    """
    from bitplane.train.checkpoint import load_final
    from bitplane.train.data import load_data

    run = Path(run_dir)
    model, config, result = load_final(run)
    data = load_data(config.data)
    images = data.train.images
    picked = torch.linspace(0, len(images) - 1, min(samples, len(images))).long()
    digest = hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()
    metadata = {
        "method": config.optimizer.method,
        "dataset": data.name,
        "classes": tuple(result.get("classes", data.classes)),
        "accuracy": {k: result[k] for k in ("test_top1", "epochs") if k in result},
        "checkpoint_sha256": digest,
    }
    return export_model(model, metadata, images[picked], out_path)


def _origin(model: ResNet, metadata: Mapping[str, Any]) -> Origin:
    unknown = sorted(set(metadata) - {f.name for f in fields(Origin)})
    if unknown:
        raise ExportError(f"metadata: unknown key {unknown[0]!r}; known are {', '.join(f.name for f in fields(Origin))}")
    origin = Origin(**metadata)
    if origin.classes and len(origin.classes) != model.config.classes:
        raise ExportError(
            f"metadata: `classes` has {len(origin.classes)} names for {model.config.classes} logits; give one name each"
        )
    return origin


def _check_samples(model: ResNet, samples: Tensor) -> None:
    if samples.dtype != torch.uint8 or samples.dim() != 4 or samples.shape[1] != model.config.channels or not samples.numel():
        raise ExportError(
            f"samples: {samples.dtype} {list(samples.shape)} given;"
            f" they must be torch.uint8 [N, {model.config.channels}, H, W] with N > 0"
        )
    zero_point = float(model.input.zero_point)
    if zero_point != round(zero_point) or not 0 <= zero_point <= 255:
        raise ExportError(f"input: the zero point (={zero_point}) must be an integer byte; train with a whole `zero_point`")


def _metadata(model: ResNet, origin: Origin, size: tuple[int, int], planes: str, verification: Verification) -> dict[str, str]:
    config = model.config
    pixels = {
        "size": list(size),
        "channels": config.channels,
        "zero_point": int(model.input.zero_point),
        "scale": float(model.input.scale),
    }
    return {
        fmt.META_FORMAT_VERSION: fmt.FORMAT_VERSION,
        fmt.META_MODEL: config.model,
        fmt.META_METHOD: origin.method,
        fmt.META_LEVEL_SET: config.weights,
        fmt.META_ACTIVATION_BITS: str(config.activations),
        fmt.META_DATASET: origin.dataset,
        fmt.META_CLASSES: json.dumps(list(origin.classes) or [str(i) for i in range(config.classes)]),
        fmt.META_INPUT: json.dumps(pixels),
        fmt.META_ACCURACY: json.dumps(dict(origin.accuracy or {})),
        fmt.META_PLANES_SHA256: planes,
        fmt.META_CHECKPOINT_SHA256: origin.checkpoint_sha256,
        fmt.META_VERIFICATION: json.dumps(asdict(verification)),
    }


def _layers(file: onnx.ModelProto) -> tuple[LayerReport, ...]:
    constants = {t.name: t for t in file.graph.initializer}
    layers: list[LayerReport] = []
    for node in file.graph.node:
        if not node.op_type.endswith("Conv"):
            continue
        own = [constants[name] for name in node.input if name in constants]
        shape = tuple(own[0].dims)
        for attribute in node.attribute:
            if attribute.name == "weight_shape":
                o, kh, kw, c = attribute.ints
                shape = (o, c, kh, kw)
        size = sum(prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in own)
        layers.append(LayerReport(node.name, node.op_type, shape, size))
    return tuple(layers)
