"""Quantize: activation codes of a uniform step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Unary
from bitplane.format import names as fmt


@dataclass(frozen=True)
class Quantize(Unary):
    """step * min(max(round(x / step), low), high), ties to even; low is 0 but for signed quantizers of other tools."""

    step: float
    high: int
    low: int = 0

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value, each operation rounded as float32."""
        step = torch.tensor(self.step, dtype=torch.float32)
        return (inputs[0] / step).round_().clamp_(self.low, self.high).mul_(step)

    def write(self, graph: GraphBuilder) -> str:
        """`Div`, `Round`, `Clip`, `Mul`."""
        step = graph.scalar(f"{self.name}.step", self.step)
        low, high = (graph.scalar(f"{self.name}.{k}", v) for k, v in (("low", self.low), ("high", self.high)))
        value = graph.node("Div", f"{self.name}.div", [graph.names[self.source], step])
        value = graph.node("Round", f"{self.name}.round", [value])
        value = graph.node("Clip", f"{self.name}.clip", [value, low, high])
        return graph.node("Mul", self.name, [value, step])

    def write_packed(self, graph: GraphBuilder) -> str | None:
        """`Quantize` to codes for the convolutions on integers, `FakeQuantize` to the same as floats for everything else."""
        source, name = graph.names[self.source], self.name
        if any(r.reads_codes(self) for r in graph.readers(self.name)):
            step = graph.scalar(f"{self.name}.step", self.step)
            graph.codes[self.name] = graph.node(fmt.QUANTIZE, name, [source, step], fmt.DOMAIN, top=[self.high])
            name = f"{self.name}.value"
        if not graph.needs_floats(self):
            return None
        step = graph.scalar(f"{self.name}.step", self.step)
        return graph.node(fmt.FAKE_QUANTIZE, name, [source, step], fmt.DOMAIN, limits=[self.low, self.high])

    def write_qonnx(self, graph: GraphBuilder) -> str:
        """`Quant`."""
        span = self.high - self.low
        bits = span.bit_length()
        quant = qonnx.Quant(bits, signed=self.low < 0, narrow=span != 2**bits - 1)
        step = graph.scalar(f"{self.name}.step", self.step)
        return quant.write(graph, self.name, graph.names[self.source], step)

    def non_negative(self, known: Callable[[str], bool]) -> bool:
        """Where its codes are."""
        return self.low >= 0
