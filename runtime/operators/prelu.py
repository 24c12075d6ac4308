"""`PRelu` (ONNX): a slope a channel where features are negative."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.operators.base import Activation, PlanContext
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class PRelu(Activation):
    """x where x > 0, else slope * x; slope float32 [C]."""

    label: ClassVar[str] = "prelu"
    is_monotone: ClassVar[bool] = False  # a slope may be negative

    slope: NDArray[np.float32]

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.where(values[0] > 0, values[0], values[0] * self.slope[:, None, None])

    def encode(self, memory: PlanContext) -> instructions.Activation:
        """Its part of an epilogue."""
        return instructions.Activation(prelu=1, slope=memory.channel_constant(self.slope))


def read(r: Reader, node: onnx.NodeProto) -> PRelu:
    """The checked node."""
    source, slope_name = r.inputs(node, 2)
    r.attributes(node)
    source, tensor = r.features(source)
    slope = r.finite("slope", slope_name, (tensor.shape[0], 1, 1)).reshape(-1)
    r.add(node.output[0], tensor)
    return PRelu(node.name, source, node.output[0], slope)


OPERATORS = {("", "PRelu"): read}
