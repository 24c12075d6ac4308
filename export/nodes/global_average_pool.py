"""GlobalAveragePool."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Shape, Unary


@dataclass(frozen=True)
class GlobalAveragePool(Unary):
    """Mean over all pixels: [C, H, W] to [C, 1, 1]."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """[C, 1, 1]."""
        return self.image_shape(inputs)[0], 1, 1

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        return inputs[0].mean((2, 3), keepdim=True)

    def write(self, graph: GraphBuilder) -> str:
        """`GlobalAveragePool`."""
        return graph.node("GlobalAveragePool", self.name, [graph.names[self.source]])

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where its source is."""
        return known(self.source)
