"""`FakeQuantize`: features as the values of their codes, for layers that compute in floating point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import Reader

LIMIT = 1 << 23
"""Largest magnitude of a code: float32 holds it exactly."""


@dataclass(frozen=True, eq=False)
class FakeQuantize(Standalone):
    """step * min(max(round(x / step), low), high), ties to even."""

    step: float
    low: int
    high: int

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        step = np.float32(self.step)
        return np.clip(np.rint(values[0] / step), np.float32(self.low), np.float32(self.high)) * step

    def instruction(self, memory: PlanContext) -> instructions.FakeQuantize:
        """One instruction."""
        return make_instruction(memory, self.source, self.output, (self.low, self.high), self.step)

    def kernel(self) -> str:
        """What runs it."""
        return "quantize and back"


def make_instruction(
    memory: PlanContext, source: str, output: str, limits: tuple[float, float], step: float | None
) -> instructions.FakeQuantize:
    """The instruction that rounds features to multiples of `step` within `limits`, or (None) to one of both by their sign."""
    (layout, at), (_, out) = memory.features(source), memory.features(output)
    return instructions.FakeQuantize(
        height=layout.height,
        row_bytes=layout.row,
        source=at,
        features=out,
        by_sign=int(step is None),
        low=memory.constant(np.array(limits, np.float32)),
        step=0 if step is None else memory.constant(np.array([step], np.float32)),
    )


def read(r: Reader, node: onnx.NodeProto) -> FakeQuantize:
    """The checked node."""
    source, step_name = r.inputs(node, 2)
    source, tensor = r.features(source)
    low, high = r.attributes(node, {"limits": 2})["limits"]
    if not -LIMIT <= low <= high <= LIMIT:
        raise r.fail(f"limits are {[low, high]}, expected two ascending integers of at most 24 bits")
    step = r.positive("step", step_name)
    r.add(node.output[0], Tensor("features", tensor.shape))
    return FakeQuantize(node.name, source, node.output[0], step, low, high)


OPERATORS = {(fmt.DOMAIN, fmt.FAKE_QUANTIZE): read}
