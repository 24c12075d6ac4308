"""The weight of a convolution: floats, or integers of a level set times a unit; and how each form stores it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64
from bitplane.format import names as fmt
from bitplane.format.levels import LEVEL_SETS, LevelSet, four_levels
from bitplane.format.limits import LEVEL_LIMIT
from bitplane.format.pack import pack_weight


@dataclass(frozen=True)
class Weight:
    """A convolution's weight, `integers * unit` or plain floats.

    Attributes:
        floats: float64 [O, C / group, kh, kw], or None for an integer weight.
        integers: int8 of the same shape, or None for a float weight.
        unit: float64 [O], what one integer step is worth.
        level_set: that the integers lie in, with planes; None if they have 8 bits, and of floats.
    """

    floats: Float64 | None
    integers: NDArray[np.int8] | None = None
    unit: Float64 | None = None
    level_set: LevelSet | None = None

    @property
    def levels(self) -> str:
        """Name of the level set, "int8", or "float"."""
        if self.integers is None:
            return "float"
        return "int8" if self.level_set is None else self.level_set.name

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
        return self.level_set is not None

    @property
    def has_zero(self) -> bool:
        """Whether an integer of its set is 0."""
        return self.level_set is None or 0 in self.level_set.integers

    def scaled(self, factor: Float64) -> "Weight":
        """The weight times `factor` float64 [O]; integers stay as they are."""
        if self.integers is None or self.unit is None:
            return Weight(self.values * factor[:, None, None, None])
        return integer_weight(self.integers, self.unit * factor, self.level_set)

    def reshaped(self, shape: tuple[int, ...]) -> "Weight":
        """The same weight as [O, *shape]."""
        if self.integers is None or self.unit is None:
            return Weight(self.values.reshape(-1, *shape))
        return integer_weight(self.integers.reshape(-1, *shape), self.unit, self.level_set)

    def write(self, graph: GraphBuilder, layer: str, *, dense: bool = False) -> str:
        """Store its values; `dense` as [O, K]. Returns the name of the value in the file."""
        values = self.values.astype(np.float32)
        return graph.constant(f"{layer}.weight", values.reshape(len(values), -1) if dense else values)

    def write_packed(self, graph: GraphBuilder, layer: str, *, dense: bool = False) -> str:
        """Store it as small as the format can: planes or int8 with their units, which a node makes floats of."""
        if self.integers is None or self.unit is None:
            return self.write(graph, layer, dense=dense)
        unit = self.unit.astype(np.float32)
        if self.level_set is not None:
            signed = np.where(unit[:, None, None, None] < 0, -self.integers, self.integers).astype(np.int8)
            planes = pack_weight(signed, self.level_set)
            inputs = [graph.constant(f"{layer}.{p}", plane) for p, plane in planes.items()]
            inputs.append(graph.constant(f"{layer}.unit", np.abs(unit).reshape(-1, 1, 1, 1)))
            o, c, kh, kw = self.shape
            operator, attributes = fmt.low_bit_operator(self.level_set, on_codes=False)
            return graph.node(operator, f"{layer}.weight", inputs, fmt.DOMAIN, **attributes, weight_shape=[o, kh, kw, c])
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
        if self.level_set is not None and self.level_set.integers == (-1, 1):
            return graph.node("BipolarQuant", f"{layer}.quant", [values, scale], qonnx.DOMAIN)
        narrow = self.level_set is not None or bool(self.integers.min() > -128)
        quant = qonnx.Quant(qonnx.signed_bits(127 if self.level_set is None else self.level_set.largest), True, narrow)
        return quant.write(graph, f"{layer}.quant", values, scale)


def integer_weight(integers: NDArray[np.int8], unit: Float64, level_set: LevelSet | None = None) -> Weight:
    """A weight of integers int8 [O, C, kh, kw], of a set with planes or of 8 bits, times `unit` float64 [O]."""
    return Weight(None, integers, unit, level_set)


def smallest_levels(integers: NDArray[np.generic]) -> LevelSet | None:
    """The smallest level set with planes that holds all integers; None if none does."""
    found = set(np.unique(integers).tolist())
    for levels in LEVEL_SETS.values():
        if found <= set(levels.integers):
            return levels
    magnitudes = sorted({abs(i) for i in found})
    return four_levels(*magnitudes) if len(magnitudes) == 2 and 0 < magnitudes[0] < magnitudes[1] <= LEVEL_LIMIT else None
