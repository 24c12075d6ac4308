"""Quantize weights: to a level set, or to 8 bits; a pass that looks at no images."""

from collections.abc import Set
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bitplane.export.network import Float64, Network, Node
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.weight import Weight, integer_weight
from bitplane.format.levels import LEVEL_SETS
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.train.quantizers import nearest_scale, projector

Levels = Literal["keep", "binary", "ternary", "quaternary", "int8"]


def quantize_weights(network: Network, levels: Levels, inner: Set[str], edges: Set[str]) -> Network:
    """Quantize the float weights of a network; layers that have integer weights keep them.

    Args:
        network: BatchNorm is folded.
        levels: of the layers `inner`, unless they are grouped.
        inner: names of the layers between the first and the last.
        edges: names of the first and last layers, which take 8 bits where they read pixels or are fully connected.
    """
    readers, nodes = network.readers(), network.producers()
    for original in (n for n in network.nodes if isinstance(n, Conv)):
        conv, pixels = original, nodes.get(original.source)
        is_float = conv.weight.integers is None
        if is_float and conv.name in inner and levels != "keep" and conv.group == 1:
            conv = replace(conv, weight=_to_levels(conv.weight, levels))
        if isinstance(pixels, Normalize) and len(readers[pixels.name]) == 1:
            if conv.weight.integers is not None:
                conv, nodes[pixels.name] = _fold_deviation(conv, pixels)
            elif conv.name in edges and conv.group == 1:
                conv, nodes[pixels.name] = quantize_stem(conv, pixels)
            elif conv.name in edges and conv.dense:
                conv = _to_int8(conv)
        elif is_float and conv.name in edges and conv.dense:
            conv = _to_int8(conv)
        nodes[conv.name] = conv
    return network.with_nodes(list(nodes.values()))


def _to_int8(conv: Conv) -> Conv:
    return replace(conv, weight=integer_weight(*quantize_int8(conv.weight.values, 127)))


def _to_levels(weight: Weight, levels: Levels) -> Weight:
    if levels == "int8":
        return integer_weight(*quantize_int8(weight.values, 127))
    level_set = LEVEL_SETS[levels]
    values = torch.from_numpy(weight.values).float()
    scale = nearest_scale(values, level_set, per_channel=True, rounds=20)
    integers = torch.round(projector(values / scale, level_set) * level_set.denominator).to(torch.int8).numpy()
    return integer_weight(integers, scale.double().reshape(-1).numpy() / level_set.denominator, level_set)


def quantize_stem(conv: Conv, pixels: Normalize) -> tuple[Conv, Normalize]:
    """The first convolution on pixels with integer weights, and the normalization (pixel - zero point) that this leaves.

    With w / std in place of w, conv((p - m) / s, w) = conv(p - z, w / s) + sum (z - m) / s w: exact but for the padding, where
    the channels' means differ from the one zero point z.
    """
    channels = pixels.mean[None, :, None, None]
    scaled = conv.weight.values / pixels.std[None, :, None, None]
    zero_point = float(np.clip(np.rint(pixels.mean.mean()), 0, 255))
    integers, unit = quantize_int8(scaled, PIXEL_WEIGHT_LIMIT)
    bias = conv.bias + (scaled * (zero_point - channels)).sum((1, 2, 3))
    ones = np.ones_like(pixels.std)
    return replace(conv, weight=integer_weight(integers, unit), bias=bias), replace(pixels, mean=zero_point * ones, std=ones)


def _fold_deviation(conv: Conv, pixels: Normalize) -> tuple[Conv, Node]:
    """A convolution of integer weights on pixels, with the standard deviation moved into its unit; nothing changes."""
    w = conv.weight
    one = float(pixels.std[0])
    is_uniform = (pixels.mean == pixels.mean[0]).all() and (pixels.std == one).all() and float(pixels.mean[0]).is_integer()
    if one == 1 or not is_uniform or w.integers is None or w.unit is None:
        return conv, pixels
    plain = replace(pixels, std=np.ones_like(pixels.std))
    return replace(conv, weight=integer_weight(w.integers, w.unit / one, w.level_set)), plain


def quantize_int8(weight: Float64, limit: int) -> tuple[NDArray[np.int8], Float64]:
    """Quantize weights symmetrically to integers in [-limit, limit], one step an output channel, by least squared error.

    Every clipping value of a grid is refined once by regression; the best of all is kept.

    Args:
        weight: float64 [O, C, kh, kw].
        limit: largest magnitude, at most 127.

    Returns:
        Integers int8 [O, C, kh, kw] and steps float64 [O], positive.
    """
    flat = weight.reshape(len(weight), -1)
    largest = np.abs(flat).max(1, keepdims=True)
    largest = np.where(largest > 0, largest, 1.0)
    best_step, best_error = largest / limit, np.full_like(largest, np.inf)
    for ratio in np.linspace(0.6, 1.0, 41):
        step = largest * (ratio / limit)
        q = _round(flat, step, limit)
        square = (q * q).sum(1, keepdims=True)
        fitted: Float64 = np.where(square > 0, (q * flat).sum(1, keepdims=True) / np.maximum(square, 1), step)
        for candidate in (step, fitted):
            error = np.square(_round(flat, candidate, limit) * candidate - flat).sum(1, keepdims=True)
            better = error < best_error
            best_step, best_error = np.where(better, candidate, best_step), np.where(better, error, best_error)
    return _round(flat, best_step, limit).astype(np.int8).reshape(weight.shape), best_step[:, 0]


def _round(flat: Float64, step: Float64, limit: int) -> Float64:
    return np.clip(np.rint(flat / step), -limit, limit)
