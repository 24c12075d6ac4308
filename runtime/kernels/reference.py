"""Every operator in plain NumPy, by FORMAT.md's definitions: the oracle of the kernels, and their readable meaning.

One image, channels first. Integers are int64, features float32 with each operation rounded once.
"""

import numpy as np
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.pack import unpack_weight
from bitplane.runtime.model import (
    Add,
    AveragePool,
    Classifier,
    Conv,
    FakeQuantize,
    FloatConv,
    Load,
    MaxPool,
    Model,
    Node,
    Output,
    PadShortcut,
    PRelu,
    Quantizer,
    Relu,
    sources,
)

Features = NDArray[np.float32]


def windows(
    values: NDArray[np.generic], kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int], fill: float
) -> NDArray[np.generic]:
    """Sliding windows [C, H', W', kh, kw] of values [C, H, W] padded with `fill`."""
    wide = np.pad(values, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(wide, kernel, (1, 2))[:, :: strides[0], :: strides[1]]


def integer_weights(conv: Conv) -> NDArray[np.int64]:
    """Weights [O, kh, kw, C] as integers: -1, 0, 1, or tenths of a quaternary level."""
    if conv.pixel_weight is not None:
        return conv.pixel_weight.transpose(0, 2, 3, 1).astype(np.int64)
    return unpack_weight(fmt.LEVELS[conv.op], conv.planes, conv.weight_shape).astype(np.int64)


def accumulators(conv: Conv, values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """ConvInteger of codes or pixels [C, H, W]: integers [O, H', W']."""
    _, kh, kw, _ = conv.weight_shape
    taps = windows(values.astype(np.int64) - conv.zero_point, (kh, kw), conv.strides, conv.pads, 0).astype(np.int64)
    return np.tensordot(integer_weights(conv), taps, ((1, 2, 3), (3, 4, 0)))


def convolve(conv: Conv, values: NDArray[np.uint8]) -> Features:
    """Float32(accumulators) * scale + bias."""
    scaled = accumulators(conv, values).astype(np.float32) * conv.scale[:, None, None]
    return scaled + conv.bias[:, None, None]


def quantize(quantizer: Quantizer, features: Features) -> NDArray[np.uint8]:
    """Codes of features: sign, or division by the step, rounding to even and clamping."""
    if quantizer.step is None:
        thresholds = np.zeros(1, np.float32) if quantizer.thresholds is None else quantizer.thresholds
        return (features >= thresholds[:, None, None]).astype(np.uint8)
    with np.errstate(over="ignore"):
        codes = np.rint(features / np.float32(quantizer.step))
    return np.clip(codes, 0, 2**quantizer.bits - 1).astype(np.uint8)


def float_convolve(conv: FloatConv, features: Features) -> Features:
    """Float32 convolution in groups, then bias; the order of its sums differs from the kernel's."""
    o, kh, kw, c = conv.weight_shape
    taps = windows(features, (kh, kw), conv.strides, conv.pads, 0).astype(np.float32)
    rows = o // conv.group
    parts = [
        np.tensordot(conv.weight[g * rows : (g + 1) * rows], taps[g * c : (g + 1) * c], ((1, 2, 3), (0, 3, 4)))
        for g in range(conv.group)
    ]
    return np.asarray(np.concatenate(parts) + conv.bias[:, None, None], np.float32)


def load(node: Load, image: NDArray[np.generic]) -> Features:
    """(pixel - mean) / std, or float32 as it is."""
    values = image.astype(np.float32)
    if node.mean is None or node.std is None:
        return values
    return (values - node.mean[:, None, None]) / node.std[:, None, None]


def fake_quantize(node: FakeQuantize, features: Features) -> Features:
    """Features as the values of their codes, or by their sign."""
    if node.step is None:
        return np.where(features >= 0, np.float32(node.high), np.float32(node.low))
    step = np.float32(node.step)
    return np.clip(np.rint(features / step), np.float32(node.low), np.float32(node.high)) * step


def max_pool(node: MaxPool, features: Features) -> Features:
    """Largest value of each window; padding never wins."""
    return np.asarray(windows(features, node.kernel, node.strides, node.pads, -np.inf).max((3, 4)), np.float32)


def pad_shortcut(node: PadShortcut, features: Features) -> Features:
    """Subsample, then put zero channels around."""
    return np.pad(features[:, :: node.steps[0], :: node.steps[1]], ((node.front, node.back), (0, 0), (0, 0)))


def classify(node: Classifier, features: Features) -> Features:
    """Logits of the features' mean; the order of its sums differs from the kernel's."""
    return node.weight @ features.mean((1, 2), dtype=np.float32) + node.bias


def evaluate(model: Model, image: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """Every value of a model for one image uint8 [C, H, W], by tensor name."""
    values: dict[str, NDArray[np.generic]] = {model.input_name: image}
    for node in model.nodes:
        values[node.output] = _apply(node, [values[name] for name in sources(node)])
    return values


def _apply(node: Node, inputs: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    if isinstance(node, Conv):
        return convolve(node, inputs[0].astype(np.uint8))
    if isinstance(node, Load):
        return load(node, inputs[0])
    features = inputs[0].astype(np.float32)
    if isinstance(node, FloatConv):
        return float_convolve(node, features)
    if isinstance(node, FakeQuantize):
        return fake_quantize(node, features)
    if isinstance(node, AveragePool):
        return features.mean((1, 2), dtype=np.float32, keepdims=True)
    if isinstance(node, Output):
        return features.reshape(-1)
    if isinstance(node, Quantizer):
        return quantize(node, features)
    if isinstance(node, Add):
        return features + inputs[1].astype(np.float32)
    if isinstance(node, Relu):
        return np.maximum(features, np.float32(0))
    if isinstance(node, PRelu):
        return np.where(features > 0, features, features * node.slope[:, None, None])
    if isinstance(node, MaxPool):
        return max_pool(node, features)
    if isinstance(node, PadShortcut):
        return pad_shortcut(node, features)
    return classify(node, features)
