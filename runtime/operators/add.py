"""`Add` (ONNX): the sum of two features of one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime.operators.base import Node
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Add(Node):
    """source + other."""

    other: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Both operands."""
        return self.source, self.other

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return values[0] + values[1]


def read(r: Reader, node: onnx.NodeProto) -> Add:
    """The checked node."""
    first, second = r.inputs(node, 2)
    r.attributes(node)
    (first, a), (second, b) = r.features(first), r.features(second)
    if a != b:
        raise r.fail(f"inputs have shapes {list(a.shape)} and {list(b.shape)}, expected equal ones")
    r.add(node.output[0], a)
    return Add(node.name, first, node.output[0], second)


OPERATORS = {("", "Add"): read}
