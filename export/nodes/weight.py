"""The weight of a convolution: floats, or integers of a level set times a unit; and how each form stores it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64
from bitplane.format import names as fmt
from bitplane.format.levels import LEVEL_SETS
from bitplane.format.pack import pack_weight


@dataclass(frozen=True)
class Weight:
    """A convolution's weight, `integers * unit` or plain floats.

    Attributes:
        floats: float64 [O, C / group, kh, kw], or None for an integer weight.
        integers: int8 of the same shape, or None for a float weight.
        unit: float64 [O], what one integer step is worth.
        levels: "binary", "ternary", "quaternary", "int8", or "float".
    """

    floats: Float64 | None
    integers: NDArray[np.int8] | None = None
    unit: Float64 | None = None
    levels: str = "float"

    @property
    def values(self) -> Float64:
        """The weight's values, float64; computed anew for an integer weight, which would take eight times its memory."""
        if self.floats is not None:
            return self.floats
        assert self.integers is not None
        assert self.unit is not None
        return self.integers * self.unit[:, None, None, None]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(O, C / group, kh, kw)."""
        stored = self.floats if self.integers is None else self.integers
        assert stored is not None
        o, c, kh, kw = stored.shape
        return o, c, kh, kw

    @property
    def is_low_bit(self) -> bool:
        """Whether it lies in a level set that has planes."""
        return self.levels in LEVEL_SETS

    def scaled(self, factor: Float64) -> "Weight":
        """The weight times `factor` float64 [O]; integers stay as they are."""
        if self.integers is None or self.unit is None:
            return Weight(self.values * factor[:, None, None, None])
        return integer_weight(self.integers, self.unit * factor, self.levels)

    def write(self, graph: GraphBuilder, layer: str, *, dense: bool = False) -> str:
        """Store its values; `dense` as [O, K]. Returns the name of the value in the file."""
        values = self.values.astype(np.float32)
        return graph.constant(f"{layer}.weight", values.reshape(len(values), -1) if dense else values)

    def write_packed(self, graph: GraphBuilder, layer: str, *, dense: bool = False) -> str:
        """Store it as small as the format can: planes or int8 with their units, which a node makes floats of."""
        if self.integers is None or self.unit is None:
            return self.write(graph, layer, dense=dense)
        unit = self.unit.astype(np.float32)
        if self.is_low_bit:
            signed = np.where(unit[:, None, None, None] < 0, -self.integers, self.integers).astype(np.int8)
            planes = pack_weight(signed, LEVEL_SETS[self.levels])
            inputs = [graph.constant(f"{layer}.{p}", plane) for p, plane in planes.items()]
            inputs.append(graph.constant(f"{layer}.unit", np.abs(unit).reshape(-1, 1, 1, 1)))
            o, c, kh, kw = self.shape
            return graph.node(
                fmt.LOW_BIT_WEIGHT[self.levels], f"{layer}.weight", inputs, fmt.DOMAIN, weight_shape=[o, kh, kw, c]
            )
        integers: NDArray[np.int8] = self.integers.reshape(len(unit), -1) if dense else self.integers
        unit = unit.reshape(-1, *[1] * (integers.ndim - 1))
        inputs = [graph.constant(f"{layer}.integers", integers), graph.constant(f"{layer}.unit", unit)]
        return graph.node(fmt.INT8_WEIGHT, f"{layer}.weight", inputs, fmt.DOMAIN)

    def write_qonnx(self, graph: GraphBuilder, layer: str) -> str:
        """Store its values, and a `Quant` that leaves them as they are and says how few bits they need."""
        if self.integers is None or self.unit is None:
            return self.write(graph, layer)
        unit = np.abs(self.unit).astype(np.float32).reshape(-1, 1, 1, 1)
        sign = np.where(self.unit < 0, -1, 1).reshape(-1, 1, 1, 1)
        values = graph.constant(f"{layer}.weight", (self.integers * sign * unit).astype(np.float32))
        scale = graph.constant(f"{layer}.unit", unit)
        if self.levels == "binary":
            return graph.node("BipolarQuant", f"{layer}.quant", [values, scale], qonnx.DOMAIN)
        narrow = self.levels != "int8" or bool(self.integers.min() > -128)
        quant = qonnx.Quant(qonnx.BITS[self.levels], signed=True, narrow=narrow)
        return quant.write(graph, f"{layer}.quant", values, scale)


def integer_weight(integers: NDArray[np.int8], unit: Float64, levels: str) -> Weight:
    """A weight of integers int8 [O, C, kh, kw] times `unit` float64 [O]."""
    return Weight(None, integers, unit, levels)


def smallest_levels(integers: NDArray[np.generic]) -> str:
    """The smallest level set that holds all integers: "binary", "ternary", "quaternary" or "int8"."""
    found = set(np.unique(integers).tolist())
    return next((name for name, levels in LEVEL_SETS.items() if found <= set(levels.integers)), "int8")
