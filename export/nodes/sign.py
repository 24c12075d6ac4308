"""Sign: 1-bit activations."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64, Unary
from bitplane.format import names as fmt


@dataclass(frozen=True)
class Sign(Unary):
    """Scale where x >= 0 (or its channel's threshold, float64 [C]), else -scale."""

    scale: float = 1.0
    thresholds: Float64 | None = None

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        limits = 0 if self.thresholds is None else torch.from_numpy(self.thresholds.astype(np.float32)).view(-1, 1, 1)
        return (inputs[0] >= limits).float() * (2 * self.scale) - self.scale

    def write(self, graph: GraphBuilder) -> str:
        """`GreaterOrEqual`, `Where`."""
        if self.thresholds is None:
            thresholds = graph.scalar(f"{self.name}.zero", 0)
        else:
            thresholds = graph.channels(f"{self.name}.thresholds", self.thresholds)
        high, low = (graph.scalar(f"{self.name}.{k}", v) for k, v in (("high", self.scale), ("low", -self.scale)))
        value = graph.node("GreaterOrEqual", f"{self.name}.reached", [graph.names[self.source], thresholds])
        return graph.node("Where", self.name, [value, high, low])

    def write_packed(self, graph: GraphBuilder) -> str | None:
        """`Sign` or `ChannelSign` to codes for the convolutions on integers, `Bipolar` to floats for everything else."""
        source, name = graph.names[self.source], self.name
        limits = [] if self.thresholds is None else [graph.channels(f"{self.name}.thresholds", self.thresholds)]
        if any(r.reads_codes(self) for r in graph.readers(self.name)):
            operator = fmt.CHANNEL_SIGN if limits else fmt.SIGN
            graph.codes[self.name] = graph.node(operator, name, [source, *limits], fmt.DOMAIN)
            name = f"{self.name}.value"
        if not graph.needs_floats(self):
            return None
        if self.thresholds is not None:
            source = self._lowered(graph, self.thresholds, source)
        scale = graph.scalar(f"{self.name}.scale", self.scale)
        return graph.node(fmt.BIPOLAR, name, [source, scale], fmt.DOMAIN)

    def _lowered(self, graph: GraphBuilder, thresholds: Float64, source: str) -> str:
        """X - thresholds, which is at least 0 where x reaches them, rounding included: a convolution of one group a channel."""
        count = len(thresholds)
        ones = graph.constant(f"{self.name}.ones", np.ones((count, 1, 1, 1), np.float32))
        bias = graph.constant(f"{self.name}.offset", -thresholds.astype(np.float32))
        window = {"dilations": [1, 1], "group": count, "kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1]}
        return graph.node("Conv", f"{self.name}.lowered", [source, ones, bias], **window)

    def write_qonnx(self, graph: GraphBuilder) -> str:
        """`BipolarQuant`, behind a `Sub` of the thresholds."""
        value, scale = graph.names[self.source], graph.scalar(f"{self.name}.scale", self.scale)
        if self.thresholds is not None:
            lowered = [value, graph.channels(f"{self.name}.thresholds", self.thresholds)]
            value = graph.node("Sub", f"{self.name}.lowered", lowered)
        return graph.node("BipolarQuant", self.name, [value, scale], qonnx.DOMAIN)
