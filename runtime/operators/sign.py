"""`Sign` and `ChannelSign`: features to 1-bit codes, by zero or by a threshold a channel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime.operators.base import Quantizer, Tensor
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Sign(Quantizer):
    """1 where x >= threshold, else 0; thresholds float32 [C], or None for zero."""

    by_channel: NDArray[np.float32] | None = None

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return 1

    def thresholds(self) -> list[np.float32 | NDArray[np.float32]]:
        """Where code 1 begins."""
        return [np.float32(0) if self.by_channel is None else self.by_channel]

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.uint8]:
        """Codes of features."""
        least = np.zeros(1, np.float32) if self.by_channel is None else self.by_channel
        return (values[0] >= least[:, None, None]).astype(np.uint8)


def read_sign(r: Reader, node: onnx.NodeProto) -> Sign:
    """The checked `Sign`."""
    (source,) = r.inputs(node, 1)
    r.attributes(node)
    source, tensor = r.features(source)
    r.add(node.output[0], Tensor("codes", tensor.shape, 1))
    return Sign(node.name, source, node.output[0])


def read_channel_sign(r: Reader, node: onnx.NodeProto) -> Sign:
    """The checked `ChannelSign`."""
    source, threshold_name = r.inputs(node, 2)
    r.attributes(node)
    source, tensor = r.features(source)
    thresholds = r.finite("threshold", threshold_name, (tensor.shape[0], 1, 1)).reshape(-1)
    r.add(node.output[0], Tensor("codes", tensor.shape, 1))
    return Sign(node.name, source, node.output[0], thresholds)


OPERATORS = {(fmt.DOMAIN, fmt.SIGN): read_sign, (fmt.DOMAIN, fmt.CHANNEL_SIGN): read_channel_sign}
