"""Calibrate: choose the steps of activations, and correct what quantized weights change.

One walk over two networks in the order of their data, the float one and the one quantized so far. At each node both values are
at hand; steps and corrections are chosen on the second, so that later layers make up for earlier ones.
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitplane.export.network import INPUT, Network, Node
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.sign import Sign

StepRule = Literal["mse", "minmax", "percentile"]
Correction = Literal["none", "bias", "statistics"]

PERCENTILE = 99.99
GRID = 64
SAMPLED = 1 << 19
"""Values of a tensor that a step is fitted to."""
VALUE_BYTES = 1 << 27
"""Bytes of the largest value of all calibration images together; of more images, evenly spaced ones are used."""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` chooses.

    Attributes:
        layers: names of the low-bit layers that are to read codes.
        bits: of those codes.
        rule: how their step is chosen.
        correction: what is corrected in a layer that was quantized.
    """

    layers: Set[str]
    bits: int
    rule: StepRule = "mse"
    correction: Correction = "statistics"


def best_step(values: Tensor, largest: float, bits: int, rule: StepRule = "mse") -> float:
    """The step of unsigned `bits`-bit codes.

    Args:
        values: float32, any shape; a sample of the tensor's values.
        largest: the largest value of the whole tensor.
        bits: bits of a code.
        rule: how.

    Returns:
        The step, positive; that of `largest` = 1 where no value is positive.
    """
    top = 2**bits - 1
    if not largest > 0:
        return 1.0 / top
    flat = values.reshape(-1).float()
    if rule == "minmax":
        return largest / top
    if rule == "percentile":
        clip = float(np.percentile(flat.numpy(), PERCENTILE))
        return (clip if clip > 0 else largest) / top
    steps = [largest * i / GRID / top for i in range(max(1, GRID // 2**bits // 2), GRID + 1)]
    errors = [((flat / s).round_().clamp_(0, top).mul_(s) - flat).square_().mean().item() for s in steps]
    return steps[min(range(len(steps)), key=errors.__getitem__)]


def calibrate(original: Network, network: Network, images: Tensor, how: Calibration) -> Network:
    """Quantize the activations that low-bit layers read, and correct the layers that were quantized.

    Args:
        original: the float network.
        network: the same nodes under the same names, some with quantized weights.
        images: uint8 or float32 [N, C, H, W].
        how: what to choose, and how.

    Returns:
        `network` with quantizers, and with corrected weights and biases.
    """
    with torch.no_grad():
        return _Walk(original, network, how).run(_few(original, images))


def _few(network: Network, images: Tensor) -> Tensor:
    largest = max(int(np.prod(shape)) for shape in network.shapes.values()) * 4
    count = max(1, min(len(images), VALUE_BYTES // largest))
    return images[torch.linspace(0, len(images) - 1, count).long()]


def non_negative(network: Network, name: str) -> bool:
    """Whether the value can only be zero or more."""
    producers = network.producers()

    def check(value: str) -> bool:
        node = producers.get(value)
        return node is not None and node.non_negative(check)

    return check(name)


class _Walk:
    """The walk over both networks; `out` collects the new one."""

    def __init__(self, original: Network, network: Network, how: Calibration) -> None:
        self.original, self.network, self.how = original, network, how
        self.producers = network.producers()
        self.out: list[Node] = []
        self.float: dict[str, Tensor] = {}
        self.own: dict[str, Tensor] = {}
        self.coded: dict[str, str] = {}
        """Value to the quantizer that was put behind it."""

    def run(self, images: Tensor) -> Network:
        self.float[INPUT] = self.own[INPUT] = images
        last = {name: node.name for node in self.network.nodes for name in node.sources}
        pairs = list(zip(self.original.nodes, self.network.nodes, strict=True))
        until = max((i for i, (before, node) in enumerate(pairs) if self._looks(before, node)), default=-1)
        for before, node in pairs[: until + 1]:
            self._node(before, node)
            for name in (s for s in node.sources if last[s] == node.name and s != INPUT):
                for values in (self.float, self.own):
                    values.pop(name, None)
                self.own.pop(self.coded.get(name, ""), None)
        # Nothing behind is chosen by looking at values.
        rest = [node for _, node in pairs[until + 1 :]]
        return self.network.with_nodes([*self.out, *rest])

    def _wants_codes(self, conv: Conv) -> bool:
        is_coded = isinstance(self.producers.get(conv.source), Quantize | Sign)
        return conv.name in self.how.layers and conv.weight.is_low_bit and conv.group == 1 and not is_coded

    def _looks(self, before: Node, node: Node) -> bool:
        """Whether something is chosen on the values at this node."""
        return isinstance(node, Conv) and (self._wants_codes(node) or (node is not before and not node.dense))

    def _node(self, before: Node, node: Node) -> None:
        if isinstance(node, Conv) and self._wants_codes(node) and non_negative(self.original, node.source):
            node = replace(node, source=self._codes(node.source))
        exact = before.evaluate([self.float[s] for s in before.sources])
        same = node is before and all(self.own[s] is self.float[s] for s in before.sources)
        value = exact if same else node.evaluate([self.own[s] for s in node.sources])
        if isinstance(node, Conv) and node is not before and self.how.correction != "none" and not node.dense:
            node, value = self._correct(node, exact, value)
        self.out.append(node)
        self.float[node.name], self.own[node.name] = exact, value

    def _codes(self, source: str) -> str:
        """The quantizer behind a value, which is added where there is none."""
        if source not in self.coded:
            values = self.own[source]
            flat = values.reshape(-1)
            sample = flat[torch.linspace(0, flat.numel() - 1, min(SAMPLED, flat.numel())).long()]
            step = best_step(sample, float(flat.max()), self.how.bits, self.how.rule)
            quantizer = Quantize(f"{source}.quant", source, float(np.float32(step)), 2**self.how.bits - 1)
            self.out.append(quantizer)
            self.own[quantizer.name] = quantizer.evaluate([values])
            self.coded[source] = quantizer.name
        return self.coded[source]

    def _correct(self, conv: Conv, exact: Tensor, value: Tensor) -> tuple[Conv, Tensor]:
        """Give the convolution's channels the mean (and spread) of the float network's."""
        spread = torch.ones(value.shape[1])
        if self.how.correction == "statistics" and conv.weight.integers is not None and len(value) * value[0, 0].numel() > 1:
            ratio = exact.std((0, 2, 3)) / value.std((0, 2, 3)).clamp(min=1e-12)
            spread = torch.where(torch.isfinite(ratio) & (ratio > 0.1) & (ratio < 10), ratio, torch.ones_like(ratio))
        shift = exact.mean((0, 2, 3)) - spread * value.mean((0, 2, 3))
        factor, offset = spread.double().numpy(), shift.double().numpy()
        weight = conv.weight if conv.weight.integers is None else conv.weight.scaled(factor)
        corrected = replace(conv, weight=weight, bias=conv.bias * factor + offset)
        return corrected, value * spread.view(-1, 1, 1) + shift.view(-1, 1, 1)
