"""PRelu: a slope a channel for negative values."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64, Unary


@dataclass(frozen=True)
class PRelu(Unary):
    """x where x > 0, else slope * x; slope float64 [C]."""

    slope: Float64

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        x = inputs[0]
        return torch.where(x > 0, x, x * torch.from_numpy(self.slope.astype(np.float32)).view(-1, 1, 1))

    def write(self, graph: GraphBuilder) -> str:
        """`PRelu`."""
        slope = graph.channels(f"{self.name}.slope", self.slope)
        return graph.node("PRelu", self.name, [graph.names[self.source], slope])
