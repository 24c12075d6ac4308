"""`Quantize`: features to codes of 1, 2, 4 or 8 bits, by a step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime.operators.base import Quantizer, Tensor
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class Quantize(Quantizer):
    """min(max(round(x / step), 0), 2^bits - 1), ties to even."""

    bits: int
    step: float

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return self.bits

    @property
    def divisor(self) -> float | None:
        """The step."""
        return self.step

    def thresholds(self) -> list[np.float32 | NDArray[np.float32]]:
        """By bisection over the bits of a positive float32: the rounding of the division is included."""
        step = np.float32(self.step)
        levels: list[np.float32 | NDArray[np.float32]] = []
        for code in range(1, 2**self.bits):
            low, high = 0, int(np.float32(np.inf).view(np.int32))
            while high - low > 1:
                middle = (low + high) // 2
                with np.errstate(over="ignore"):
                    reached = np.rint(np.int32(middle).view(np.float32) / step) >= code
                low, high = (low, middle) if reached else (middle, high)
            levels.append(np.int32(high).view(np.float32))
        return levels

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.uint8]:
        """Codes of features."""
        with np.errstate(over="ignore"):
            codes = np.rint(values[0] / np.float32(self.step))
        return np.clip(codes, 0, 2**self.bits - 1).astype(np.uint8)


def read(r: Reader, node: onnx.NodeProto) -> Quantize:
    """The checked node."""
    source, step_name = r.inputs(node, 2)
    source, tensor = r.features(source)
    (top,) = r.attributes(node, {"top": 1})["top"]
    bits = next((a for a in fmt.ACTIVATION_BITS if 2**a - 1 == top), 0)
    if not bits:
        raise r.fail(f"top is {top}, expected one of {[2**a - 1 for a in fmt.ACTIVATION_BITS]}")
    step = r.positive("step", step_name)
    r.add(node.output[0], Tensor("codes", tensor.shape, bits))
    return Quantize(node.name, source, node.output[0], bits, step)


OPERATORS = {(fmt.DOMAIN, fmt.QUANTIZE): read}
