"""Clip: values between two limits, such as ReLU6 and Hardtanh."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Unary

LARGEST = float(np.finfo(np.float32).max)
"""The limit of a side that has none."""


@dataclass(frozen=True)
class Clip(Unary):
    """min(max(x, low), high), low <= high, both within float32."""

    low: float
    high: float

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        return torch.clamp(inputs[0], self.low, self.high)

    def write(self, graph: GraphBuilder) -> str:
        """`Clip`."""
        low, high = (graph.scalar(f"{self.name}.{k}", v) for k, v in (("low", self.low), ("high", self.high)))
        return graph.node("Clip", self.name, [graph.names[self.source], low, high])

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where the lower limit is not."""
        return self.low >= 0
