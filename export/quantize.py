"""Quantization after training: weights to level sets, steps of activations, and the correction of what that changes.

One walk over the network in the order of its data. At each node two values are at hand, the float network's and that of the
network quantized so far; steps and corrections are chosen on the second, so that later layers make up for earlier ones.

    calibration   minmax       the largest value is the largest code
                  percentile   the 99.99th percentile is
                  mse          the clipping value of least squared error is
    correction    none
                  bias         a channel's mean becomes the float network's (Nagel et al., ICCV 2019, section 4.2)
                  statistics   its mean and standard deviation do: BatchNorm re-estimated, for networks whose BatchNorm is
                  folded
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitplane.export.errors import ExportError
from bitplane.export.evaluate import apply
from bitplane.export.fold import quantize_int8
from bitplane.export.network import (
    INPUT,
    QUANTIZERS,
    Add,
    Conv,
    GlobalAveragePool,
    MaxPool,
    Network,
    Node,
    Normalize,
    PadShortcut,
    Quantize,
    Relu,
    Weight,
    integer_weight,
    sources,
)
from bitplane.format.levels import LEVEL_SETS
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.train.quantizers import nearest_scale, projector

Calibration = Literal["mse", "minmax", "percentile"]
Correction = Literal["none", "bias", "statistics"]
Levels = Literal["keep", "binary", "ternary", "quaternary", "int8"]

PERCENTILE = 99.99
GRID = 64
SAMPLED = 1 << 19
"""Values of a tensor that a step is fitted to."""
VALUE_BYTES = 1 << 27
"""Bytes of the largest value of all calibration images together; of more images, evenly spaced ones are used."""


@dataclass(frozen=True)
class Quantization:
    """How a network is quantized after training.

    Attributes:
        weights: level set of the float convolutions between the first and the last layer; "keep" leaves them as they are.
        activations: bits of the activations that low-bit convolutions read, where the network has none: 8, 4, 2, or 32 for
            float.
        calibration: how steps are chosen.
        correction: what is corrected after weights or activations have been quantized.
        keep: layers, by name or pattern (`layer4.*`), that are left as they are.
        edges: bits of the first convolution (on pixels) and of the classifier: 8, or 32 for float.
    """

    weights: Levels = "keep"
    activations: Literal[32, 8, 4, 2] = 8
    calibration: Calibration = "mse"
    correction: Correction = "statistics"
    keep: tuple[str, ...] = ()
    edges: Literal[8, 32] = 8

    def __post_init__(self) -> None:
        for name, allowed in (
            ("weights", ("keep", "binary", "ternary", "quaternary", "int8")),
            ("activations", (32, 8, 4, 2)),
            ("calibration", ("mse", "minmax", "percentile")),
            ("correction", ("none", "bias", "statistics")),
            ("edges", (8, 32)),
        ):
            if getattr(self, name) not in allowed:
                raise ExportError(f"`{name}` (={getattr(self, name)!r}) must be one of {', '.join(map(str, allowed))}")


def best_step(values: Tensor, largest: float, bits: int, calibration: Calibration = "mse") -> float:
    """The step of unsigned `bits`-bit codes.

    Args:
        values: float32, any shape; a sample of the tensor's values.
        largest: the largest value of the whole tensor.
        bits: bits of a code.
        calibration: how.

    Returns:
        The step, positive; that of `largest` = 1 where no value is positive.
    """
    top = 2**bits - 1
    if not largest > 0:
        return 1.0 / top
    flat = values.reshape(-1).float()
    if calibration == "minmax":
        return largest / top
    if calibration == "percentile":
        clip = float(np.percentile(flat.numpy(), PERCENTILE))
        return (clip if clip > 0 else largest) / top
    steps = [largest * i / GRID / top for i in range(max(1, GRID // 2**bits // 2), GRID + 1)]
    errors = [((flat / s).round_().clamp_(0, top).mul_(s) - flat).square_().mean().item() for s in steps]
    return steps[min(range(len(steps)), key=errors.__getitem__)]


def quantize(network: Network, how: Quantization, images: Tensor) -> Network:
    """Quantize a network whose BatchNorm is folded.

    Args:
        network: from `fold_affine`.
        how: what to quantize and how.
        images: uint8 or float32 [N, C, H, W], as the network reads; a few hundred.

    Raises:
        ExportError: a pattern of `keep` names no layer.
    """
    convs = [n for n in network.nodes if isinstance(n, Conv)]
    kept = kept_layers(network, how)
    edges = {c.name for c in _edges(network)}
    targets: dict[str, Conv] = {}
    for conv in convs:
        if conv.name in kept or conv.weight.integers is not None:
            continue
        if conv.name in edges:
            if how.edges == 8:
                targets[conv.name] = conv
        elif how.weights != "keep" and conv.group == 1:
            targets[conv.name] = replace(conv, weight=_to_levels(conv.weight, how.weights))
    return _Walk(network, how, kept | edges, targets).run(_picked(network, images))


def kept_layers(network: Network, how: Quantization) -> set[str]:
    """Names of the layers that `how.keep` names.

    Raises:
        ExportError: a pattern names no layer.
    """
    names = [n.name for n in network.nodes if isinstance(n, Conv)]
    for pattern in how.keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ExportError(f"{network.name}: no layer is called '{pattern}'; layers are {', '.join(names)}")
    return {name for name in names if any(fnmatchcase(name, p) for p in how.keep)}


def _edges(network: Network) -> list[Conv]:
    """The first convolution (on pixels or on the input) and the classifier."""
    convs = [n for n in network.nodes if isinstance(n, Conv)]
    roots = {INPUT, *(n.name for n in network.nodes if isinstance(n, Normalize))}
    first = [c for c in convs if c.source in roots]
    last = [c for c in convs[-1:] if c.dense]
    return first + last


def _picked(network: Network, images: Tensor) -> Tensor:
    largest = max(int(np.prod(shape)) for shape in network.shapes.values()) * 4
    count = max(1, min(len(images), VALUE_BYTES // largest))
    return images[torch.linspace(0, len(images) - 1, count).long()]


def _to_levels(weight: Weight, levels: Levels) -> Weight:
    if levels == "int8":
        return integer_weight(*quantize_int8(weight.values, 127), "int8")
    level_set = LEVEL_SETS[levels]
    values = torch.from_numpy(weight.values).float()
    scale = nearest_scale(values, level_set, per_channel=True, rounds=20)
    integers = torch.round(projector(values / scale, level_set) * level_set.denominator).to(torch.int8).numpy()
    return integer_weight(integers, scale.double().reshape(-1).numpy() / level_set.denominator, levels)


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
    return replace(conv, weight=integer_weight(integers, unit, "int8"), bias=bias), replace(
        pixels, mean=zero_point * ones, std=ones
    )


def _uniform(pixels: Normalize) -> bool:
    """Whether all channels have one whole zero point and one standard deviation."""
    return (pixels.mean == pixels.mean[0]).all() and (pixels.std == pixels.std[0]).all() and float(pixels.mean[0]).is_integer()


def non_negative(network: Network, name: str) -> bool:
    """Whether the value can only be zero or more."""
    by_name = network.producers()

    def check(value: str) -> bool:
        node = by_name.get(value)
        if isinstance(node, Relu) or (isinstance(node, Quantize) and node.low >= 0):
            return True
        return isinstance(node, MaxPool | GlobalAveragePool | PadShortcut | Add) and all(check(s) for s in sources(node))

    return check(name)


class _Walk:
    """The walk over both networks; `out` collects the quantized one."""

    def __init__(self, network: Network, how: Quantization, exempt: set[str], targets: dict[str, Conv]) -> None:
        self.network, self.how, self.exempt, self.targets = network, how, exempt, targets
        self.out: list[Node] = []
        self.float: dict[str, Tensor] = {}
        self.own: dict[str, Tensor] = {}
        self.coded: dict[str, str] = {}  # value -> its quantizer in `out`

    def run(self, images: Tensor) -> Network:
        self.float[INPUT] = self.own[INPUT] = images
        last = {name: node.name for node in self.network.nodes for name in sources(node)}
        with torch.no_grad():
            producers = self.network.producers()
            looking = [i for i, n in enumerate(self.network.nodes) if isinstance(n, Conv) and self._looks(n, producers)]
            until = max(looking, default=-1)
            for i, node in enumerate(self.network.nodes):
                if i > until:  # nothing from here on is chosen by looking at values
                    self.out.append(self._conv(node) if isinstance(node, Conv) else node)
                    continue
                self._node(node)
                for name in sources(node):
                    if last[name] == node.name and name != INPUT:
                        for values in (self.float, self.own):
                            values.pop(name, None)
                        self.own.pop(self.coded.get(name, ""), None)
        return self.network.with_nodes(self.out)

    def _looks(self, conv: Conv, producers: dict[str, Node]) -> bool:
        """Whether quantizing this convolution looks at values: to correct what changes, or to choose a step."""
        target, source = self.targets.get(conv.name), producers.get(conv.source)
        if target is not None and not (conv.dense and target.weight.integers is None):
            return True
        return self._wants_codes(target or conv) and not isinstance(source, QUANTIZERS)

    def _wants_codes(self, conv: Conv) -> bool:
        is_low_bit = conv.weight.levels in LEVEL_SETS and conv.group == 1
        return is_low_bit and conv.name not in self.exempt and self.how.activations != 32

    def _node(self, node: Node) -> None:
        original = node
        if isinstance(node, Conv):
            node = self._conv(node)
        exact = apply(original, [self.float[s] for s in sources(original)])
        same = node is original and all(self.own[s] is self.float[s] for s in sources(original))
        value = exact if same else apply(node, [self.own[s] for s in sources(node)])
        if isinstance(node, Conv) and node is not original and self.how.correction != "none" and not node.dense:
            node, value = self._correct(node, exact, value)
        self.out.append(node)
        self.float[node.name], self.own[node.name] = exact, value

    def _conv(self, conv: Conv) -> Conv:
        source = next((n for n in self.out if n.name == conv.source), None)
        low_bit = self.targets.get(conv.name, conv)
        if isinstance(source, Normalize) and low_bit.weight.integers is not None and _uniform(source):
            low_bit = self._on_pixels(low_bit, source)
        if low_bit.name in self.targets and low_bit.weight.integers is None:  # an edge
            if isinstance(source, Normalize) and low_bit.group == 1 and len(self.network.readers()[source.name]) == 1:
                low_bit, pixels = quantize_stem(low_bit, source)
                self.out[self.out.index(source)] = pixels
                self.own[source.name] = apply(pixels, [self.own[INPUT]])
            elif low_bit.dense:
                low_bit = replace(low_bit, weight=integer_weight(*quantize_int8(low_bit.weight.values, 127), "int8"))
            return low_bit
        if not self._wants_codes(low_bit) or isinstance(source, QUANTIZERS):
            return low_bit
        if not non_negative(self.network, conv.source):
            return low_bit
        if conv.source not in self.coded:
            values = self.own[conv.source]
            flat = values.reshape(-1)
            sample = flat[torch.linspace(0, flat.numel() - 1, min(SAMPLED, flat.numel())).long()]
            step = best_step(sample, float(flat.max()), self.how.activations, self.how.calibration)
            quantizer = Quantize(f"{conv.source}.quant", conv.source, float(np.float32(step)), 2**self.how.activations - 1)
            self.out.append(quantizer)
            self.own[quantizer.name] = apply(quantizer, [values])
            self.coded[conv.source] = quantizer.name
        return replace(low_bit, source=self.coded[conv.source])

    def _on_pixels(self, conv: Conv, pixels: Normalize) -> Conv:
        """A convolution of integer weights on pixels, with the standard deviation moved into its unit; nothing changes."""
        w = conv.weight
        if pixels.std[0] == 1 or w.integers is None or w.unit is None or len(self.network.readers()[pixels.name]) != 1:
            return conv
        plain = replace(pixels, std=np.ones_like(pixels.std))
        self.out[self.out.index(pixels)] = plain
        self.own[pixels.name] = apply(plain, [self.own[INPUT]])
        return replace(conv, weight=integer_weight(w.integers, w.unit / pixels.std[0], w.levels))

    def _correct(self, conv: Conv, exact: Tensor, value: Tensor) -> tuple[Conv, Tensor]:
        """Give the convolution's channels the mean (and spread) of the float network's."""
        spread = torch.ones(value.shape[1])
        if self.how.correction == "statistics" and conv.weight.integers is not None and len(value) * value[0, 0].numel() > 1:
            ratio = exact.std((0, 2, 3)) / value.std((0, 2, 3)).clamp(min=1e-12)
            spread = torch.where(torch.isfinite(ratio) & (ratio > 0.1) & (ratio < 10), ratio, torch.ones_like(ratio))
        shift = exact.mean((0, 2, 3)) - spread * value.mean((0, 2, 3))
        factor = spread.double().numpy()
        weight = conv.weight
        if weight.integers is not None and weight.unit is not None:
            weight = integer_weight(weight.integers, weight.unit * factor, weight.levels)
        bias = conv.bias * factor + shift.double().numpy()
        view = (-1, 1, 1)
        return replace(conv, weight=weight, bias=bias), value * spread.view(view) + shift.view(view)
