"""Normalize: pixels to what a network computes with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64, Shape, Unary
from bitplane.format import names as fmt


@dataclass(frozen=True)
class Normalize(Unary):
    """(pixel - mean) / std of uint8 pixels, mean and std float64 [C]."""

    mean: Float64
    std: Float64

    @property
    def is_whole_zero_point(self) -> bool:
        """Whether all channels have one mean that is a byte."""
        first = float(self.mean[0])
        return bool((self.mean == first).all()) and first.is_integer() and 0 <= first <= 255

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """That of the pixels."""
        return self.image_shape(inputs)

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        mean, std = (torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (self.mean, self.std))
        return (inputs[0].float() - mean) / std

    def write(self, graph: GraphBuilder) -> str:
        """`Cast`, `Sub`, `Div`."""
        value = graph.node("Cast", f"{self.name}.cast", [graph.names[self.source]], to=int(TensorProto.FLOAT))
        value = graph.node("Sub", f"{self.name}.sub", [value, graph.channels(f"{self.name}.mean", self.mean)])
        return graph.node("Div", self.name, [value, graph.channels(f"{self.name}.std", self.std)])

    def write_packed(self, graph: GraphBuilder) -> str | None:
        """`Normalize`; nothing where every reader takes the pixels themselves."""
        if not graph.needs_floats(self):
            return None
        factors = [graph.channels(f"{self.name}.{k}", v) for k, v in (("mean", self.mean), ("std", self.std))]
        return graph.node(fmt.NORMALIZE, self.name, [graph.names[self.source], *factors], fmt.DOMAIN)

    def write_qonnx(self, graph: GraphBuilder) -> str:
        """QONNX has no integer images: `Quant` of 8 bits on floats says that they are bytes."""
        one = graph.scalar("quant.one", 1)
        quant = qonnx.Quant(bits=8, signed=False, narrow=False)
        value = quant.write(graph, f"{self.name}.bytes", graph.names[self.source], one)
        value = graph.node("Sub", f"{self.name}.sub", [value, graph.channels(f"{self.name}.mean", self.mean)])
        return graph.node("Div", self.name, [value, graph.channels(f"{self.name}.std", self.std)])
