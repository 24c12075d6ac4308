"""What torch's modules and bitplane.train's layers are read as: a row of `MODULES` by their class, also for its subclasses."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.network import Float64
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.clip import Clip
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.global_average_pool import GlobalAveragePool
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.nodes.prelu import PRelu
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.relu import Relu
from bitplane.export.nodes.sign import Sign
from bitplane.export.nodes.weight import Weight, integer_weight
from bitplane.export.read.construction import Value, pair
from bitplane.export.read.torch_call import Call
from bitplane.export.read.torch_functions import add_max_pool
from bitplane.train import activations, layers
from bitplane.train.layers import CodedLayer, LowBitLayer

LEVEL_TOLERANCE = 1e-3
"""Largest distance of a weight from its level, in units of the level set's integers."""


def pixel_input(call: Call, m: layers.PixelInput) -> Value:
    """Pixels to floats around zero."""
    channels = call.builder.input_shape[0]
    mean, std = np.full(channels, float(m.zero_point)), np.full(channels, float(m.scale))
    return call.add(Normalize("pixels", call.x.name, mean, std))


def pad_shortcut(call: Call, m: layers.PadShortcut) -> Value:
    """Zero channels behind, fewer pixels."""
    return call.add(PadShortcut(call.name, call.x.name, (m.stride, m.stride), 0, m.extra))


def learned_step(call: Call, m: activations.LearnedStep) -> Value:
    """Codes of a step."""
    step = m.step.detach().cpu().abs().clamp(min=1e-8).float().item()
    if not np.isfinite(step):
        raise ExportError(f"{call.name}: the activation step (={step}) is not finite; the training has diverged")
    return call.add(Quantize(call.name, call.x.name, step, m.top))


def sign(call: Call, m: activations.Sign) -> Value:
    """1-bit activations."""
    thresholds = None if m.threshold is None else _finite(call.name, m.threshold)
    return call.add(Sign(call.name, call.x.name, thresholds=thresholds))


def conv(call: Call, m: nn.Conv2d) -> Value:
    """A convolution, low-bit or float."""
    if isinstance(m.padding, str) or pair(m.dilation) != (1, 1) or m.padding_mode != "zeros":
        what = f"Conv2d '{call.name}' with dilation, padding by name or a padding mode other than zeros"
        raise call.refuse(what)
    py, px = pair(m.padding)
    pads, pad_value = (py, px, py, px), m.pad_value if isinstance(m, CodedLayer) else 0.0
    if isinstance(m, LowBitLayer):
        weight = low_bit_weight(call.name, m)
    elif isinstance(m, layers.Int8Conv2d):
        weight = _int8_weight(m, pixels=call.reads(Normalize))
    else:
        weight = Weight(to_float64(m.weight))
    if weight.floats is not None and not np.isfinite(weight.floats).all():
        raise ExportError(f"{call.name}: a weight is not finite; the training has diverged")
    bias = np.zeros(m.out_channels) if m.bias is None else to_float64(m.bias)
    fill = pad_value if any(pads) else 0.0
    return call.add(Conv(call.name, call.x.name, weight, bias, pair(m.stride), pads, m.groups, fill))


def _four_axes(values: Any) -> Any:
    """The weight of a fully connected layer, [O, K], as [O, K, 1, 1]; any other as it is."""
    return values.reshape(*values.shape, *[1] * (4 - values.ndim))


def _int8_weight(m: layers.Int8Conv2d, *, pixels: bool) -> Weight:
    """Integers and their unit; on pixels the values, as the standard deviation of the pixels is to be folded in before."""
    integers, step = (to_float64(v) for v in m.integers())
    if pixels or not np.isfinite(step).all():
        return Weight(to_float64(m.rounded()))
    return integer_weight(integers.astype(np.int8), step.reshape(-1))


def linear(call: Call, m: nn.Linear) -> Value:
    """A fully connected layer, low-bit or float."""
    bias = np.zeros(m.out_features) if m.bias is None else to_float64(m.bias)
    weight = low_bit_weight(call.name, m) if isinstance(m, LowBitLayer) else Weight(_four_axes(to_float64(m.weight)))
    return call.builder.dense(call.name, call.x, weight, bias)


def batch_norm(call: Call, m: nn.BatchNorm1d | nn.BatchNorm2d) -> Value:
    """A factor and an offset a channel."""
    return call.add(Affine(call.name, call.x.name, *batch_norm_affine(m)))


def relu(call: Call, m: nn.ReLU) -> Value:
    """max(x, 0)."""
    return call.add(Relu(call.name, call.x.name))


def clip(call: Call, m: nn.Hardtanh) -> Value:
    """Between two limits; `ReLU6` is one."""
    return call.add(Clip(call.name, call.x.name, float(m.min_val), float(m.max_val)))


def prelu(call: Call, m: nn.PReLU | nn.LeakyReLU) -> Value:
    """A slope, one for all channels or one a channel."""
    if len(call.shape) != 3:
        raise call.refuse(f"layer '{call.name}' ({type(m).__name__})")
    slope = np.asarray(m.negative_slope) if isinstance(m, nn.LeakyReLU) else _finite(call.name, m.weight)
    return call.add(PRelu(call.name, call.x.name, np.broadcast_to(slope, (call.shape[0],)).astype(np.float64)))


def max_pool(call: Call, m: nn.MaxPool2d) -> Value:
    """Sliding maximum."""
    if m.ceil_mode or pair(m.dilation) != (1, 1) or m.return_indices:
        raise call.refuse(f"MaxPool2d '{call.name}' with ceil_mode, dilation or return_indices")
    return add_max_pool(call, call.name, m.kernel_size, m.stride, m.padding)


def average_pool(call: Call, m: nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> Value:
    """Mean over all pixels, or over each alone: then the value itself."""
    if isinstance(m, nn.AdaptiveAvgPool2d):
        if call.shape[1:] in (m.output_size, (m.output_size, m.output_size)):
            return call.x
        whole = m.output_size in (1, (1, 1))
    else:
        whole = pair(m.kernel_size) == call.shape[1:] and pair(m.padding) == (0, 0) and m.divisor_override is None
    if not whole:
        raise call.refuse(f"layer '{call.name}' ({type(m).__name__}), which is no mean over all pixels,")
    return call.add(GlobalAveragePool(call.name, call.x.name))


def flatten(call: Call, m: nn.Flatten) -> Value:
    """[C, H, W] to [K]."""
    if m.start_dim != 1 or m.end_dim not in (-1, len(call.shape)):
        raise call.refuse(f"layer '{call.name}' (Flatten) from axis {m.start_dim} to {m.end_dim}")
    return replace(call.x, flat=True)


def nothing(call: Call, m: nn.Module) -> Value:
    """The value itself."""
    return call.x


MODULES: dict[type[nn.Module], Callable[[Call, Any], Value]] = {
    layers.PixelInput: pixel_input,
    layers.PadShortcut: pad_shortcut,
    activations.LearnedStep: learned_step,
    activations.Sign: sign,
    nn.Conv2d: conv,
    nn.Linear: linear,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: relu,
    nn.Hardtanh: clip,
    nn.ReLU6: clip,
    nn.PReLU: prelu,
    nn.LeakyReLU: prelu,
    nn.MaxPool2d: max_pool,
    nn.AvgPool2d: average_pool,
    nn.AdaptiveAvgPool2d: average_pool,
    nn.Flatten: flatten,
    nn.Identity: nothing,
    nn.Dropout: nothing,
    nn.Dropout2d: nothing,
}
"""Class of a module to its reader."""


def _finite(path: str, values: Tensor) -> Float64:
    if not bool(torch.isfinite(values).all()):
        raise ExportError(f"{path}: a value is not finite; the training has diverged")
    return to_float64(values)


def to_float64(tensor: Tensor) -> Float64:
    """A tensor's values as a float64 array of the same shape."""
    return tensor.detach().cpu().double().numpy()


def batch_norm_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Float64, Float64]:
    """The factor and offset, float64 [O] each, of BatchNorm in eval mode: BN(y) = factor y + offset.

    Raises:
        ExportError: it keeps no running statistics.
    """
    if bn.running_var is None or bn.running_mean is None:
        raise ExportError("a BatchNorm keeps no running statistics; train with track_running_stats=True")
    ones = np.ones(bn.num_features)
    factor = (to_float64(bn.weight) if bn.affine else ones) / np.sqrt(to_float64(bn.running_var) + bn.eps)
    return factor, (to_float64(bn.bias) if bn.affine else 0 * ones) - to_float64(bn.running_mean) * factor


def low_bit_weight(name: str, layer: LowBitLayer) -> Weight:
    """The weight of a low-bit layer: integers of its level set, or floats where those have more than 8 bits.

    Returns:
        [O, C / groups, kh, kw]; of a fully connected layer [O, K, 1, 1].

    Raises:
        ExportError: as of `level_integers`.
    """
    integers, factor = level_integers(name, layer), math.gcd(*layer.levels.integers)
    if layer.levels.largest // factor > np.iinfo(np.int8).max:
        return Weight(_four_axes(to_float64(layer.weight)))
    scale = np.broadcast_to(to_float64(layer.level_scale).reshape(-1), (len(integers),))
    values = _four_axes(integers.astype(np.int8))
    return integer_weight(values, scale * factor / layer.levels.denominator, layer.levels.packed())


def level_integers(name: str, layer: LowBitLayer) -> NDArray[np.int64]:
    """The levels of a low-bit layer as integers without a common factor, int64 of its weight's shape.

    Raises:
        ExportError: a level scale is not positive, or a weight lies farther than `LEVEL_TOLERANCE` from every level.
    """
    level_scale = to_float64(layer.level_scale)
    if layer.scale_option == "two-sided":
        raise ExportError(
            f"{name}: positive and negative levels have scales of their own (method ttq), which no packed form holds; take"
            " --method twn, or with --scale layer --scale-fit learned, instead"
        )
    if not (np.isfinite(level_scale).all() and (level_scale > 0).all()):
        raise ExportError(f"{name}: a level scale is not positive and finite; train again with a smaller learning rate")
    factor = math.gcd(*layer.levels.integers)
    units = to_float64(layer.weight) / level_scale * layer.levels.denominator / factor
    levels = np.asarray(layer.levels.integers) // factor
    distance = np.abs(units[..., None] - levels).min(-1)
    if not (distance <= LEVEL_TOLERANCE).all():
        count, most = int((~(distance <= LEVEL_TOLERANCE)).sum()), float(distance.max()) * factor / layer.levels.denominator
        raise ExportError(
            f"{name}: {count} of {units.size} weights of this layer are not in the {layer.levels.name} level set"
            f" (off by up to {most:.3g} of its unit): call `bitplane.finish(model, optimizer)`, or finish the run"
        )
    return np.rint(units).astype(np.int64)
