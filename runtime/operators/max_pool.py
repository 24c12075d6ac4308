"""`MaxPool` (ONNX): the largest value of each window; padding never wins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime.operators.base import Node, Tensor, windows
from bitplane.runtime.operators.reader import Reader

DEFAULTS = {"ceil_mode": 0, "dilations": [1, 1], "storage_order": 0, "auto_pad": b"NOTSET"}


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Kernel (kh, kw), strides (y, x), pads (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.asarray(windows(values[0], self.kernel, self.strides, self.pads, -np.inf).max((3, 4)), np.float32)


def read(r: Reader, node: onnx.NodeProto) -> MaxPool:
    """The checked node."""
    (source,) = r.inputs(node, 1)
    source, tensor = r.features(source)
    c, h, w = tensor.shape
    a = r.attributes(node, {"kernel_shape": 2, "strides": 2, "pads": 4}, DEFAULTS)
    (kh, kw), (sy, sx), (top, left, bottom, right) = a["kernel_shape"], a["strides"], a["pads"]
    if min(kh, kw) < 1:
        raise r.fail(f"kernel_shape is {[kh, kw]}, expected positive sizes")
    height, width = r.window((h, w), (kh, kw), (sy, sx), a["pads"])
    r.add(node.output[0], Tensor("features", (c, height, width)), min(kh, h) * min(kw, w))
    return MaxPool(node.name, source, node.output[0], (kh, kw), (sy, sx), (top, left, bottom, right))


OPERATORS = {("", "MaxPool"): read}
