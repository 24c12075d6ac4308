"""`Gemm` (ONNX): the classifier."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.layouts import BLOCK
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import Reader

CLASSES = 64
"""Classes of a block of the classifier; 16 where there are no more."""


@dataclass(frozen=True, eq=False)
class Classifier(Standalone):
    """Mean over the pixels of features, then Gemm.

    Attributes:
        weight: float32 [classes, C].
        bias: float32 [classes].
        stored: what the file stores: "int8" or "float".
        integers: int8 [classes, C] where it stores int8: then `weight` is float32(`integers`) * `unit`.
        unit: float32 [classes], likewise.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stored: str = "float"
    integers: NDArray[np.int8] | None = None
    unit: NDArray[np.float32] | None = None

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of features; the order of the sums differs from the kernel's."""
        return self.weight @ values[0].mean((1, 2), dtype=np.float32) + self.bias

    def instruction(self, memory: PlanContext) -> instructions.Classify:
        """One instruction: weights lie as [block of classes][channel][class of the block]."""
        layout, at = memory.features(self.source)
        classes, channels = self.weight.shape
        block = CLASSES if classes > BLOCK else BLOCK
        groups = -(-classes // block)
        wide = np.zeros((groups * block, layout.channels), np.float32 if self.integers is None else np.int8)
        wide[:classes, :channels] = self.weight if self.integers is None else self.integers
        packed = wide.reshape(groups, block, -1).transpose(0, 2, 1)
        bias, unit = np.zeros((2, groups * block), np.float32)
        bias[:classes] = self.bias
        weights, bias_at, unit_at = memory.constant(packed), memory.constant(bias), 0
        if self.unit is not None:
            unit[:classes] = self.unit
            unit_at = memory.constant(unit)
        return instructions.Classify(
            mean_of=instructions.Image(at, layout.row, layout.pixel, layout.height, layout.width),
            channels=layout.channels,
            classes=classes,
            scratch=memory.scratch,
            groups=groups,
            vectors=block // BLOCK,
            weights=weights,
            weights_group=packed[0].nbytes,
            is_int8=int(self.unit is not None),
            unit=unit_at,
            bias=bias_at,
        )

    def kernel(self) -> str:
        """What runs it."""
        return "mean and dense float32" + (", int8 weights" if self.unit is not None else "")


def read(r: Reader, node: onnx.NodeProto) -> Classifier:
    """The checked node."""
    source, weight_name, bias_name = r.inputs(node, 3)
    if source not in r.flat:
        raise r.fail(f"input '{source}' is not the output of Flatten")
    origin = r.flat[source]
    if r.attributes(node, {"transB": 0}, {"alpha": 1.0, "beta": 1.0, "transA": 0})["transB"] != (1,):
        raise r.fail("attribute 'transB' is not 1")
    found = r.float_weight(weight_name, 2)
    classes, channels = found.values.shape
    if channels != r.tensors[origin].shape[0]:
        shape = list(found.values.shape)
        raise r.fail(f"weight '{weight_name}' has shape {shape}, expected [classes, {r.tensors[origin].shape[0]}]")
    bias = r.finite("bias", bias_name, (classes,))
    r.add(node.output[0], Tensor("logits", (classes, 1, 1)), channels)
    return Classifier(node.name, origin, node.output[0], found.values, bias, found.kind, found.integers, found.unit)


OPERATORS = {("", "Gemm"): read}
