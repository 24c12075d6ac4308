"""`Bipolar`: features as scale or -scale by their sign, for layers that compute in floating point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.fake_quantize import make_instruction
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Bipolar(Standalone):
    """Scale where x >= 0, else -scale."""

    scale: float

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.where(values[0] >= 0, np.float32(self.scale), np.float32(-self.scale))

    def instruction(self, memory: PlanContext) -> instructions.FakeQuantize:
        """One instruction."""
        return make_instruction(memory, self.source, self.output, (-self.scale, self.scale), None)

    def kernel(self) -> str:
        """What runs it."""
        return "quantize and back"


def read(r: Reader, node: onnx.NodeProto) -> Bipolar:
    """The checked node."""
    source, scale_name = r.inputs(node, 2)
    source, tensor = r.features(source)
    r.attributes(node)
    scale = r.positive("scale", scale_name)
    r.add(node.output[0], Tensor("features", tensor.shape))
    return Bipolar(node.name, source, node.output[0], scale)


OPERATORS = {(fmt.DOMAIN, fmt.BIPOLAR): read}
