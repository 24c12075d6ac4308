"""Add: the sum of two values, as at the end of a residual block."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Node, Shape


@dataclass(frozen=True)
class Add(Node):
    """Sum of two values of one shape."""

    source: str
    other: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return self.source, self.other

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same node reading its sources under their new names."""
        return replace(self, source=names.get(self.source, self.source), other=names.get(self.other, self.other))

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """That of both."""
        first, second = inputs
        if first != second:
            raise ValueError(f"{self.name}: adds shapes {list(first)} and {list(second)}, expected equal ones")
        return first

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        return inputs[0] + inputs[1]

    def write(self, graph: GraphBuilder) -> str:
        """`Add`."""
        return graph.node("Add", self.name, [graph.names[self.source], graph.names[self.other]])

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where both are."""
        return all(known(s) for s in self.sources)
