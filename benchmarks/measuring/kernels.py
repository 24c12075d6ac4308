"""How near the popcount kernels come to the machine: each layer beside a register-only loop of the same instructions."""

from dataclasses import dataclass
from typing import Literal

from bitplane.benchmarks.measuring.timing import interleaved
from bitplane.runtime.inspect.register_loop import register_loop
from bitplane.runtime.inspect.single_layer import make_layer


@dataclass(frozen=True)
class Shape:
    """A convolution of square images: sizes in, and how it moves."""

    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    out_channels: int = 0  # 0: as many as go in

    def __str__(self) -> str:
        out = f" to {self.out_channels}" if self.out_channels else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.channels}{out} channels @ {self.size}x{self.size}{stride}"

    @property
    def products(self) -> int:
        """Multiply-adds."""
        side = (self.size - 1) // self.stride + 1
        return self.channels * (self.out_channels or self.channels) * self.kernel**2 * side**2


WIDE = (Shape(64, 56), Shape(128, 28), Shape(256, 14), Shape(512, 7))
"""ResNet-18's 3x3 layers."""

OTHERS = (
    Shape(16, 32), Shape(32, 16), Shape(64, 8),  # ResNet-20's
    Shape(64, 56, stride=2, out_channels=128), Shape(256, 14, stride=2, out_channels=512),
    Shape(64, 56, kernel=1, stride=2, out_channels=128), Shape(256, 56, kernel=1, out_channels=64),
    Shape(256, 14, kernel=1, out_channels=1024), Shape(1024, 14, kernel=1, out_channels=256),
)  # fmt: skip

ROUNDS = 20_000
LAYER_WORK = 400_000_000
"""Multiply-adds of one timed call: a small layer runs many times, so that the call from Python does not count."""


@dataclass(frozen=True)
class KernelTime:
    """A layer beside the register loop.

    Attributes:
        layer: level set and shape.
        kernel: what ran it, for people.
        product: what multiplied: "popcount", "look-up" or "bytes".
        us: microseconds, median.
        gmacs: giga multiply-adds a second.
        limit_gmacs: of the loop of popcounts, which look-ups may exceed.
        of_limit: the former as a share of the latter.
    """

    layer: str
    kernel: str
    product: str
    us: float
    gmacs: float
    limit_gmacs: float
    of_limit: float


def measure_kernels(rounds: int = 30) -> list[KernelTime]:
    """Time convolutions with threshold and packing, 1-bit activations, one thread."""
    return [_measure(kind, shape, rounds) for kind in ("binary", "ternary") for shape in (*WIDE, *OTHERS)]


def _measure(kind: Literal["binary", "ternary"], shape: Shape, rounds: int) -> KernelTime:
    out = shape.out_channels or None
    layer = make_layer(kind, shape.channels, shape.size, out_channels=out, kernel=shape.kernel, stride=shape.stride)
    times, lanes = max(1, LAYER_WORK // shape.products), min(64, shape.channels)
    work = register_loop(kind, lanes, ROUNDS)
    found = interleaved({"layer": lambda: layer(times), "limit": lambda: register_loop(kind, lanes, ROUNDS)}, rounds)
    us = found["layer"].median * 1e3 / times
    gmacs, limit = shape.products / us / 1e3, work / found["limit"].median / 1e6
    return KernelTime(f"{kind} {shape}", layer.kernel, layer.product, us, gmacs, limit, gmacs / limit)
