"""Flatten."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Shape, Unary


@dataclass(frozen=True)
class Flatten(Unary):
    """[C, H, W] to [C * H * W]."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """One axis."""
        return (int(np.prod(inputs[0])),)

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        return inputs[0].flatten(1)

    def write(self, graph: GraphBuilder) -> str:
        """`Flatten`; nothing after a `Gemm`, whose value is flat already."""
        value = graph.names[self.source]
        return value if self.source == graph.gemm else graph.node("Flatten", self.name, [value], axis=1)
