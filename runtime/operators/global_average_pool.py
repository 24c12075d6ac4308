"""`GlobalAveragePool` (ONNX): the mean over all pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class GlobalAveragePool(Standalone):
    """Features [C, H, W] to [C, 1, 1]."""

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features; the order of the sum differs from the kernel's."""
        return values[0].mean((1, 2), dtype=np.float32, keepdims=True)

    def instruction(self, memory: PlanContext) -> instructions.AveragePool:
        """One instruction."""
        (source, at), (_, out) = memory.features(self.source), memory.features(self.output)
        return instructions.AveragePool(
            mean_of=instructions.Image(at, source.row, source.pixel, source.height, source.width),
            channels=source.channels,
            features=out,
        )

    def kernel(self) -> str:
        """What runs it."""
        return "mean over pixels"


def read(r: Reader, node: onnx.NodeProto) -> GlobalAveragePool:
    """The checked node."""
    (source,) = r.inputs(node, 1)
    r.attributes(node)
    source, tensor = r.features(source)
    r.add(node.output[0], Tensor("features", (tensor.shape[0], 1, 1)))
    return GlobalAveragePool(node.name, source, node.output[0])


OPERATORS = {("", "GlobalAveragePool"): read}
