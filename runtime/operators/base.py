"""What the operators have in common: the values between them, and the kinds of nodes that planning tells apart.

Nodes hold arrays, which have no equality: they are compared by identity (`eq=False`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime import instructions
from bitplane.runtime.layouts import FeaturesLayout

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """A value between nodes, without its batch axis.

    Attributes:
        kind: "pixels" (uint8) or "floats" (float32) of the input, "codes" (uint8, `bits` bits), "features" (float32) or
            "logits" (float32).
        shape: (C, H, W); logits have (classes, 1, 1).
        bits: bits of a code, 0 for other kinds.
    """

    kind: Literal["pixels", "floats", "codes", "features", "logits"]
    shape: tuple[int, int, int]
    bits: int = 0


class PlanContext(Protocol):
    """Where values and constants lie, as a node's instruction needs them (`plan.memory` and `plan.arena` make it)."""

    @property
    def scratch(self) -> instructions.Scratch:
        """The threads' scratch parts."""
        ...

    def features(self, name: str) -> tuple[FeaturesLayout, int]:
        """Layout and arena offset of features."""
        ...

    def channels(self, name: str) -> int:
        """Channels of a tensor, without padding."""
        ...

    def constant(self, array: NDArray[np.generic]) -> int:
        """Store a constant; returns its offset."""
        ...

    def channel_constant(self, values: NDArray[np.generic]) -> int:
        """Store one value a channel, padded with zeros to whole vectors; returns its offset."""
        ...


@dataclass(frozen=True, eq=False)
class Node:
    """One operator of a checked model.

    Attributes:
        name: node name.
        source: name of the tensor it reads first.
        output: name of the tensor it makes.
    """

    name: str
    source: str
    output: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        return (self.source,)

    def evaluate(self, *values: NDArray[Any]) -> NDArray[Any]:
        """The operator's meaning in plain NumPy, by FORMAT.md, for one image, channels first: the oracle of the kernels."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Standalone(Node):
    """A node that is one instruction by itself and joins no convolution's epilogue."""

    def instruction(self, memory: PlanContext) -> instructions.Instruction:
        """The instruction that computes it."""
        raise NotImplementedError

    def kernel(self) -> str:
        """What runs it, for people."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """A pointwise function of features that an epilogue computes.

    Attributes:
        label: what it is called in the description of a kernel.
        is_monotone: whether a larger value never gives a smaller result, so that thresholds can move in front of it.
    """

    label: ClassVar[str]
    is_monotone: ClassVar[bool]

    def encode(self, memory: PlanContext) -> instructions.Activation:
        """Its part of an epilogue."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Quantizer(Node):
    """Features to codes."""

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        raise NotImplementedError

    def thresholds(self) -> list[np.float32 | NDArray[np.float32]]:
        """The smallest float32 that each code 1 .. 2^A - 1 needs (A <= 2), of all channels or [C]."""
        raise NotImplementedError

    @property
    def divisor(self) -> float | None:
        """The step that features are divided by; None where a comparison makes the code."""
        return None


@dataclass(frozen=True, eq=False)
class Convolution(Node):
    """What all convolutions have.

    Attributes:
        strides: (y, x).
        pads: (top, left, bottom, right).
    """

    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, kh, kw, C / group)."""
        raise NotImplementedError


def windows(
    values: NDArray[np.generic], kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int], fill: float
) -> NDArray[np.generic]:
    """Sliding windows [C, H', W', kh, kw] of values [C, H, W] padded with `fill`."""
    wide = np.pad(values, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(wide, kernel, (1, 2))[:, :: strides[0], :: strides[1]]
