"""Relu."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Unary


@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)."""

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        return torch.relu(inputs[0])

    def write(self, graph: GraphBuilder) -> str:
        """`Relu`."""
        return graph.node("Relu", self.name, [graph.names[self.source]])

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Always."""
        return True
