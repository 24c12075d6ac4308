"""Widen kernels whose padding is not smaller than they are: no packed convolution has such."""

from dataclasses import replace

import numpy as np

from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.weight import Weight, integer_weight, smallest_levels


def widen_kernels(network: Network) -> Network:
    """Put zero weights around kernels until every padding is smaller than its kernel; the network computes the same.

    A kernel of k taps between paddings of p and q becomes one of k + 2 e between p + e and q + e, with e = max(p, q) - k + 1.
    Binary weights become ternary by that, those of four levels 8-bit: their level sets have no zero.
    """
    return network.with_nodes([_widened(n) if isinstance(n, Conv) else n for n in network.nodes])


def _widened(conv: Conv) -> Conv:
    kernel = conv.weight.shape[2:]
    pads = np.array(conv.pads).reshape(2, 2)
    extra = np.maximum(pads.max(0) - kernel + 1, 0)
    if not extra.any():
        return conv
    around = [(0, 0), (0, 0), (extra[0], extra[0]), (extra[1], extra[1])]
    w = conv.weight
    if w.integers is None or w.unit is None:
        weight = Weight(np.pad(w.values, around))
    else:
        integers = np.pad(w.integers, around)
        weight = integer_weight(integers, w.unit, w.level_set if w.has_zero else smallest_levels(integers))
    top, left, bottom, right = (int(p) for p in (pads + extra).reshape(-1))
    return replace(conv, weight=weight, pads=(top, left, bottom, right))
