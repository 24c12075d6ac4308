"""Folding: BatchNorm into convolutions, and a convolution on codes into integers with one scale and bias a channel.

With s = gamma / sqrt(var + eps) of BatchNorm, integer weights w of unit l, codes u of step t, and 1-bit values c (2 u - 1):

    BN(conv(x, l w))              = conv(x, (s l) w) + (beta - mean s)                      `fold_affine`
    conv(t u, l w) + b            = (t l) conv(u, w) + b                                    `fold_codes`
    conv(c (2 u - 1), l w) + b    = (2 c l) conv(u, w) + (b - c l sum w)                    1-bit inputs
    conv(p - z, l w) + b          = l conv(p - z, w) + b                                    pixels

computed in float64 and rounded once to float32. Channels of negative s take -w, so that the scale is positive.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitplane.export.errors import ExportError
from bitplane.export.network import (
    Add,
    Affine,
    Conv,
    Float64,
    Kept,
    Network,
    Node,
    Quantize,
    Sign,
    Weight,
    integer_weight,
    sources,
)

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
DEAD_BIAS = 1e-30
"""Least magnitude of the bias of a dead channel whose weights cannot be zero: above any accumulator times `SMALLEST_NORMAL`."""


@dataclass(frozen=True)
class FoldedConv:
    """A convolution in integers with its epilogue.

    Attributes:
        weight: int8 [O, C, kh, kw].
        scale: float32 [O, 1, 1], positive and finite.
        bias: float32 [O, 1, 1], finite.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


def fold_affine(network: Network) -> Network:
    """Merge every BatchNorm into the convolution that alone feeds it, or into the signs that alone read it.

    A factor must be positive for a sign; others become 1x1 convolutions of one group a channel.
    """
    readers = network.readers()
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for original in network.nodes:
        node = rename_sources(original, renamed)
        if isinstance(node, Sign) and isinstance(before := nodes.get(node.source), Affine):
            low = 0.0 if node.thresholds is None else node.thresholds
            node = replace(node, source=before.source, thresholds=(low - before.offset) / before.factor)
        if not isinstance(node, Affine):
            nodes[node.name] = node
            continue
        source = nodes.get(node.source)
        if isinstance(source, Conv) and len(readers[source.name]) == 1 and source.name != network.output:
            nodes[source.name] = _scaled(source, node.factor, node.offset)
            renamed[node.name] = source.name
        elif _is_threshold(network, node, readers[node.name]):
            nodes[node.name] = node  # until its readers have been seen
        else:
            weight = Weight(node.factor.reshape(-1, 1, 1, 1))
            nodes[node.name] = Conv(node.name, node.source, weight, node.offset, group=len(node.factor))
    nodes = {k: n for k, n in nodes.items() if not isinstance(n, Affine)}
    output = renamed.get(network.output, network.output)
    return replace(network, output=output).with_nodes(list(nodes.values()))


def _is_threshold(network: Network, node: Affine, readers: list[Node]) -> bool:
    """Whether signs alone read a BatchNorm, of which each only compares with a number a channel then."""
    if node.name == network.output or len(network.shapes[node.name]) != 3 or not readers:
        return False
    limit = np.finfo(np.float32).max
    return all(isinstance(r, Sign) for r in readers) and bool((np.abs(node.offset) < limit * node.factor).all())


def rename_sources(node: Node, names: dict[str, str]) -> Node:
    """The node with its sources under their new names."""
    if not any(name in names for name in sources(node)):
        return node
    if isinstance(node, Kept):
        return replace(node, inputs=tuple(names.get(i, i) for i in node.inputs))
    if isinstance(node, Add):
        return replace(node, source=names.get(node.source, node.source), other=names.get(node.other, node.other))
    return replace(node, source=names.get(node.source, node.source))


def _scaled(conv: Conv, factor: Float64, offset: Float64) -> Conv:
    w = conv.weight
    if w.integers is None or w.unit is None:
        weight = Weight(w.values * factor[:, None, None, None])
    else:
        weight = integer_weight(w.integers, w.unit * factor, w.levels)
    return replace(conv, weight=weight, bias=conv.bias * factor + offset)


def fold_codes(conv: Conv, source: Quantize | Sign | None) -> FoldedConv:
    """A convolution on codes (or on pixels, where `source` is None) as integers with scale and bias.

    Raises:
        ExportError: a folded factor is not finite.
    """
    integers, unit, bias = conv.weight.integers, conv.weight.unit, conv.bias
    assert integers is not None
    assert unit is not None
    if isinstance(source, Sign):
        scale = 2 * source.scale * unit
        bias = bias - source.scale * unit * integers.sum((1, 2, 3), dtype=np.int64)
    else:
        scale = unit * (1.0 if source is None else float(np.float32(source.step)))
    has_zero = conv.weight.levels in ("ternary", "int8")
    return _positive(conv.name, integers, scale, bias, has_zero=has_zero)


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


def _positive(name: str, integers: NDArray[np.int8], scale: Float64, bias: Float64, *, has_zero: bool) -> FoldedConv:
    """Make every scale positive: negate weights of negative ones; a scale of zero takes zero weights where the set has them."""
    limit = float(np.finfo(np.float32).max)
    if not ((np.abs(scale) <= limit).all() and (np.abs(bias) <= limit).all()):
        raise ExportError(f"{name}: BatchNorm folds to a factor that is not finite in float32; the training has diverged")
    negative, zero = scale < 0, np.abs(scale) < SMALLEST_NORMAL
    weight = np.where(negative[:, None, None, None], -integers, integers)
    if has_zero:
        weight[zero] = 0
    else:
        # Otherwise the accumulator would decide the sign of a dead channel whose bias is zero.
        bias = np.where(zero & (np.abs(bias) < DEAD_BIAS), np.where(bias < 0, -DEAD_BIAS, DEAD_BIAS), bias)
    positive = np.where(zero, SMALLEST_NORMAL, np.abs(scale))
    return FoldedConv(
        weight.astype(np.int8),
        positive.astype(np.float32).reshape(-1, 1, 1),
        bias.astype(np.float32).reshape(-1, 1, 1),
    )
