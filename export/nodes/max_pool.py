"""MaxPool."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Shape, Unary, window


@dataclass(frozen=True)
class MaxPool(Unary):
    """Sliding maximum; padding never wins. Kernel and strides are (y, x), pads (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """[C, H, W] with fewer pixels."""
        shape = self.image_shape(inputs)
        return shape[0], *window(shape, self.kernel, self.strides, self.pads)

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        top, left, bottom, right = self.pads
        padded = functional.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
        return functional.max_pool2d(padded, self.kernel, self.strides)

    def write(self, graph: GraphBuilder) -> str:
        """`MaxPool`."""
        kernel, strides, pads = list(self.kernel), list(self.strides), list(self.pads)
        return graph.node("MaxPool", self.name, [graph.names[self.source]], kernel_shape=kernel, strides=strides, pads=pads)

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where its source is."""
        return known(self.source)
