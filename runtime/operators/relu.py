"""`Relu` (ONNX): max(x, 0) of features."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.operators.base import Activation, PlanContext
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Relu(Activation):
    """max(x, 0)."""

    label: ClassVar[str] = "relu"
    is_monotone: ClassVar[bool] = True

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.maximum(values[0], np.float32(0))

    def encode(self, memory: PlanContext) -> instructions.Activation:
        """Its part of an epilogue."""
        return instructions.Activation(relu=1)


def read(r: Reader, node: onnx.NodeProto) -> Relu:
    """The checked node."""
    (source,) = r.inputs(node, 1)
    r.attributes(node)
    source, tensor = r.features(source)
    r.add(node.output[0], tensor)
    return Relu(node.name, source, node.output[0])


OPERATORS = {("", "Relu"): read}
