"""A source in memory to a checked network, with what the source makes of the images."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitplane.export.errors import ExportError, first_line
from bitplane.export.network import Network
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.passes.fold import fold_affine
from bitplane.export.passes.merge import merge_neighbors
from bitplane.export.passes.prune import prune
from bitplane.export.qonnx import runnable
from bitplane.export.read.construction import Normalization
from bitplane.export.read.onnx import read_onnx
from bitplane.export.read.torch import quantizer_outputs, read_torch
from bitplane.export.verify import BATCH_SIZE, check_reading, few, run_onnxruntime
from bitplane.train.layers import PixelInput
from bitplane.train.models import ModelConfig


@dataclass(frozen=True)
class Source:
    """A source as read: its folded network, the images as the file takes them, and what the source makes of them.

    Attributes:
        network: as read, BatchNorm folded.
        images: uint8 or float32 [N, C, H, W].
        logits: float32 [N, classes].
        normalize: mean and standard deviation in pixels, one a channel, of a network that reads pixels.
    """

    network: Network
    images: Tensor
    logits: np.ndarray
    normalize: tuple[list[float], list[float]] | None


def check_samples(images: Tensor) -> None:
    """Refuse what is not [N, C, H, W] of pixels or finite floats.

    Raises:
        ExportError: it is not.
    """
    if images.dim() != 4 or not images.numel() or images.dtype not in (torch.uint8, torch.float32):
        raise ExportError(
            f"samples: {images.dtype} {list(images.shape)} given; they must be uint8 pixels or float32, [N, C, H, W] with N > 0"
        )
    if images.dtype == torch.float32 and not torch.isfinite(images).all():
        raise ExportError("samples: contain NaN or infinity; give real images")


def folded(network: Network) -> Network:
    """A network as read, without what its result does not need, with every affine map folded."""
    return fold_affine(merge_neighbors(prune(network)))


def read_source(source: nn.Module | onnx.ModelProto, images: Tensor, normalize: Normalization | None) -> Source:
    """Read a source and check the reading against it.

    Args:
        source: a torch module or an ONNX model; not modified.
        images: uint8 or float32 [N, C, H, W].
        normalize: mean and std in pixels, where the source takes normalized floats and the file is to take pixels.

    Raises:
        ExportError: the source cannot be read, does not fit the images, or the reading computes something else.
    """
    if isinstance(source, onnx.ModelProto):
        return _from_onnx(source, images, normalize)
    return _from_torch(source, images, normalize)


def _from_torch(source: nn.Module, images: Tensor, normalize: Normalization | None) -> Source:
    module = copy.deepcopy(source).cpu().float().eval()
    config = getattr(module, "config", None)  # a network from elsewhere may have one of its own
    channels = config.channels if isinstance(config, ModelConfig) else images.shape[1]
    if channels != images.shape[1]:
        raise ExportError(f"samples: {list(images.shape)} given; the network takes {channels} channels")
    _check_zero_point(module)
    network = folded(read_torch(module, _image_shape(images), normalize))
    _check_kind(network, images)

    def run(x: Tensor) -> Tensor:
        return module(_normalized(x, normalize))

    logits = _batches(run, images)
    checked = few(images, network)
    outputs = quantizer_outputs(module, lambda: run(checked))
    values = {own: v.reshape(len(v), *network.shapes[own]) for own, v in outputs.items() if own in network.shapes}
    check_reading(network, checked, _without_gradients(run, checked), values)
    return Source(network, images, logits, pixel_form(network))


def _from_onnx(source: onnx.ModelProto, images: Tensor, normalize: Normalization | None) -> Source:
    label = source.graph.name or "model"
    reading = read_onnx(source, label, _image_shape(images), normalize)
    network = folded(reading.network)
    _check_kind(network, images)
    chosen, given = few(images, network), {o.name for o in source.graph.output}
    kept = network.producers()
    taps = {own: name for own, name in reading.taps.items() if own in kept and name not in given}
    try:
        model = runnable(source)
        (logits,) = run_onnxruntime(model, _normalized(images, normalize))
        expected, *values = run_onnxruntime(model, _normalized(chosen, normalize), list(taps.values()))
    except ExportError:
        raise
    except Exception as e:  # onnxruntime's errors share no base class
        raise ExportError(
            f"{label}: onnxruntime cannot run the source ({first_line(e)}); check the file and the samples"
        ) from e
    forced = {own: _like(network, own, value) for own, value in zip(taps, values, strict=True)}
    check_reading(network, chosen, expected, forced)
    return Source(network, images, logits, pixel_form(network))


def _like(network: Network, name: str, value: np.ndarray) -> Tensor:
    """A value of the source in the shape that the network has it in."""
    return torch.from_numpy(value.reshape(len(value), *network.shapes[name]))


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def _normalized(images: Tensor, normalize: Normalization | None) -> Tensor:
    if normalize is None:
        return images
    mean, std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in normalize)
    return (images.float() - mean) / std


def _check_kind(network: Network, images: Tensor) -> None:
    wanted = torch.uint8 if network.pixels else torch.float32
    if images.dtype != wanted:
        remedy = (
            "give pixels as they are decoded"
            if network.pixels
            else "give normalized images, or pixels and their normalization (--mean, --std)"
        )
        raise ExportError(f"samples: {images.dtype} given, the network takes {wanted}; {remedy}")


def _check_zero_point(module: nn.Module) -> None:
    for m in module.modules():
        zero_point = float(m.zero_point) if isinstance(m, PixelInput) else 0.0
        if zero_point != round(zero_point) or not 0 <= zero_point <= 255:
            raise ExportError(f"input: the zero point (={zero_point}) must be an integer byte; train with a whole `zero_point`")


@torch.no_grad()
def _without_gradients(run: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    """`run` of images without gradients, as an array."""
    return run(images).numpy()


def _batches(run: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    try:
        return np.concatenate([_without_gradients(run, part) for part in images.split(BATCH_SIZE)]).reshape(len(images), -1)
    except RuntimeError as e:  # torch: the images do not fit the module
        raise ExportError(f"samples: {list(images.shape)} do not fit the network ({first_line(e)})") from e


def pixel_form(network: Network) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation in pixels, one a channel, of a network that reads pixels."""
    for node in network.nodes:
        if isinstance(node, Normalize):
            return node.mean.tolist(), node.std.tolist()
    return None
