"""The metadata of a file (`FORMAT.md`, Metadata)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import onnx

from bitplane.export.errors import ExportError
from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.sign import Sign
from bitplane.export.verify import Verification
from bitplane.format import names as fmt
from bitplane.format.checksums import planes_sha256, weights_sha256
from bitplane.format.metadata import DEFAULT_FIT, DEFAULT_RESIZE


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


def make_origin(network: Network, metadata: Mapping[str, Any]) -> Origin:
    """The origin that a user's `metadata` describes.

    Raises:
        ExportError: a key is unknown, or there is not one class name a logit.
    """
    known = [f.name for f in fields(Origin)]
    for key in sorted(set(metadata) - set(known)):
        raise ExportError(f"metadata: unknown key {key!r}; known are {', '.join(known)}")
    origin = Origin(**metadata)
    if origin.classes and len(origin.classes) != network.classes:
        raise ExportError(
            f"metadata: `classes` has {len(origin.classes)} names for {network.classes} logits; give one name each"
        )
    return replace(origin, model=origin.model or network.name)


def make_metadata(
    file: onnx.ModelProto,
    network: Network,
    origin: Origin,
    normalize: tuple[list[float], list[float]] | None,
    verification: Verification,
) -> dict[str, str]:
    """The properties of a file.

    Args:
        file: the model, otherwise complete.
        network: what it was written from.
        origin: where that comes from.
        normalize: mean and standard deviation in pixels that the source was trained on, one a channel.
        verification: what the self-check measured.
    """
    convs = [n for n in network.nodes if isinstance(n, Conv) and n.weight.is_low_bit]
    levels = {c.weight.levels for c in convs} or {"float"}
    bits = {bits for c in convs if (bits := _code_bits(network, c.source))} or {32}
    return {
        fmt.META_FORMAT_VERSION: fmt.FORMAT_VERSION,
        fmt.META_MODEL: origin.model,
        fmt.META_METHOD: origin.method,
        fmt.META_LEVEL_SET: levels.pop() if len(levels) == 1 else "mixed",
        fmt.META_ACTIVATION_BITS: str(bits.pop()) if len(bits) == 1 else "mixed",
        fmt.META_DATASET: origin.dataset,
        fmt.META_CLASSES: json.dumps(list(origin.classes) or [str(i) for i in range(network.classes)]),
        fmt.META_INPUT: json.dumps(_input(network, normalize)),
        fmt.META_ACCURACY: json.dumps(dict(origin.accuracy or {})),
        fmt.META_PLANES_SHA256: planes_sha256(file.graph),
        fmt.META_WEIGHTS_SHA256: weights_sha256(file.graph),
        fmt.META_CHECKPOINT_SHA256: origin.checkpoint_sha256,
        fmt.META_VERIFICATION: json.dumps(asdict(verification)),
    }


def _code_bits(network: Network, value: str) -> int:
    """Bits of the codes of a value; 0 if it has none."""
    quantizer = network.producers().get(value)
    if isinstance(quantizer, Sign):
        return 1
    return (quantizer.high - quantizer.low).bit_length() if isinstance(quantizer, Quantize) else 0


def _input(network: Network, normalize: tuple[list[float], list[float]] | None) -> dict[str, Any]:
    """What the network takes, and how image files became the pixels of training and calibration."""
    channels, *size = network.input_shape
    pixels: dict[str, Any] = {"size": size, "channels": channels, "resize": DEFAULT_RESIZE, "fit": DEFAULT_FIT}
    if normalize is None:
        return pixels
    mean, std = normalize
    pixels |= {"mean": mean, "std": std}
    if len(set(mean)) == len(set(std)) == 1 and mean[0].is_integer():
        pixels |= {"zero_point": int(mean[0]), "scale": std[0]}
    return pixels
