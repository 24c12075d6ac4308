"""PadShortcut: the parameter-free shortcut of a residual block (He et al., CVPR 2016, option A)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Shape, Unary
from bitplane.format import names as fmt


@dataclass(frozen=True)
class PadShortcut(Unary):
    """x[:, ::steps[0], ::steps[1]] between `front` and `back` zero channels."""

    steps: tuple[int, int]
    front: int
    back: int

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """More channels, fewer pixels."""
        channels, height, width = self.image_shape(inputs)
        return self.front + channels + self.back, -(-height // self.steps[0]), -(-width // self.steps[1])

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        x = inputs[0][:, :, :: self.steps[0], :: self.steps[1]]
        return functional.pad(x, (0, 0, 0, 0, self.front, self.back))

    def _pads(self) -> list[int]:
        """`pads` [8] of `Pad`."""
        return [0, self.front, 0, 0, 0, self.back, 0, 0]

    def write(self, graph: GraphBuilder) -> str:
        """`Slice` and `Pad`, each where it does something."""
        value = graph.names[self.source]
        if self.steps != (1, 1):
            bounds = {
                "starts": np.zeros(2, np.int64),
                "ends": np.full(2, np.iinfo(np.int64).max),
                "axes": np.asarray([2, 3], np.int64),
                "steps": np.asarray(self.steps, np.int64),
            }
            inputs = [graph.constant(f"{self.name}.{key}", array) for key, array in bounds.items()]
            name = f"{self.name}.slice" if self.front or self.back else self.name
            value = graph.node("Slice", name, [value, *inputs])
        if not (self.front or self.back):
            return value
        pads = graph.constant(f"{self.name}.pads", np.asarray(self._pads(), np.int64))
        return graph.node("Pad", self.name, [value, pads])

    def write_packed(self, graph: GraphBuilder) -> str:
        """`PadShortcut`."""
        value, steps = graph.names[self.source], list(self.steps)
        return graph.node(fmt.PAD_SHORTCUT, self.name, [value], fmt.DOMAIN, steps=steps, pads=self._pads())

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where its source is."""
        return known(self.source)
