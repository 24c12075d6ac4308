"""`Flatten` (ONNX) of single pixels, and the features that are the result themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Output(Standalone):
    """Features [C, 1, 1] as the logits."""

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of features."""
        return values[0].reshape(-1)

    def instruction(self, memory: PlanContext) -> instructions.Output:
        """One instruction."""
        return instructions.Output(source=memory.features(self.source)[1], channels=memory.channels(self.source))

    def kernel(self) -> str:
        """What runs it."""
        return "copy"


def read(r: Reader, node: onnx.NodeProto) -> None:
    """Remember what is flattened: `Gemm` reads it, or it is the result."""
    (source,) = r.inputs(node, 1)
    r.attributes(node, defaults={"axis": 1})
    name, tensor = r.features(source)
    if tensor.shape[1:] != (1, 1):
        raise r.fail(f"input '{source}' has shape {list(tensor.shape)}, expected one pixel")
    r.new(node.output[0])
    r.flat[node.output[0]] = name


def read_output(r: Reader) -> Output | None:
    """The node that makes the logits of a flattened value, if they are one."""
    if fmt.OUTPUT_NAME not in r.flat:
        return None
    source = r.flat.pop(fmt.OUTPUT_NAME)
    r.add(fmt.OUTPUT_NAME, Tensor("logits", (r.tensors[source].shape[0], 1, 1)))
    return Output("output", source, fmt.OUTPUT_NAME)


OPERATORS = {("", "Flatten"): read}
