"""`Clip` (ONNX): features between two limits, such as ReLU6."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.operators.base import Activation, PlanContext
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Clip(Activation):
    """min(max(x, low), high), low <= high."""

    label: ClassVar[str] = "clip"
    is_monotone: ClassVar[bool] = True

    low: float
    high: float

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.minimum(np.maximum(values[0], np.float32(self.low)), np.float32(self.high))

    def encode(self, memory: PlanContext) -> instructions.Activation:
        """Its part of an epilogue."""
        return instructions.Activation(clip=1, clip_limits=memory.constant(np.array([self.low, self.high], np.float32)))


def read(r: Reader, node: onnx.NodeProto) -> Clip:
    """The checked node: both limits are initializers."""
    source, *names = r.inputs(node, 3)
    r.attributes(node)
    source, tensor = r.features(source)
    low, high = (float(r.constant(name, np.float32, ())) for name in names)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise r.fail(f"limits are {[low, high]}, expected two ascending finite numbers")
    r.add(node.output[0], tensor)
    return Clip(node.name, source, node.output[0], low, high)


OPERATORS = {("", "Clip"): read}
