"""Quantization after training: weights to level sets, steps of activations, and the correction of what that changes.

calibration   minmax       the largest value is the largest code
              percentile   the 99.99th percentile is
              mse          the clipping value of least squared error is
correction    none
              bias         a channel's mean becomes the float network's (Nagel et al., ICCV 2019, section 4.2)
              statistics   its mean and standard deviation do: BatchNorm re-estimated, for networks whose BatchNorm is
              folded
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor

from bitplane.export.errors import ExportError
from bitplane.export.network import INPUT, Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.passes.calibrate import Calibration, Correction, StepRule, calibrate
from bitplane.export.passes.weights import Levels, quantize_weights


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
    calibration: StepRule = "mse"
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


def quantize(network: Network, how: Quantization, images: Tensor) -> Network:
    """Quantize a network whose BatchNorm is folded.

    Args:
        network: from `fold_affine`.
        how: what to quantize and how.
        images: uint8 or float32 [N, C, H, W], as the network reads; a few hundred.

    Raises:
        ExportError: a pattern of `keep` names no layer.
    """
    kept, edges = kept_layers(network, how), edge_layers(network)
    inner = {n.name for n in network.nodes if isinstance(n, Conv)} - kept - edges
    low_bit = quantize_weights(network, how.weights, inner, edges - kept if how.edges == 8 else set())
    coded = set[str]() if how.activations == 32 else inner
    return calibrate(network, low_bit, images, Calibration(coded, how.activations, how.calibration, how.correction))


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


def edge_layers(network: Network) -> set[str]:
    """Names of the first convolution (on pixels or on the input) and the classifier."""
    convs = [n for n in network.nodes if isinstance(n, Conv)]
    roots = {INPUT, *(n.name for n in network.nodes if isinstance(n, Normalize))}
    first = [c for c in convs if c.source in roots]
    last = [c for c in convs[-1:] if c.dense]
    return {c.name for c in first + last}
