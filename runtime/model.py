"""What a packed file says, checked: frozen values that lowering can trust. `bitplane.runtime.parse` makes them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAX_ELEMENTS = 1 << 28
"""Largest number of elements of a tensor of one image; a file that asks for more is refused before anything is allocated."""
MAX_CHANNELS = 1 << 20
"""Most channels of a tensor: a file can ask for them without holding a weight for each."""
MAX_STRIDE = 1 << 16
"""Largest stride."""
MAX_WORK = 1 << 42
"""Most operations (multiply-adds, comparisons of a pool, elements of anything else) that one image may take: some minutes."""


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


@dataclass(frozen=True)
class Conv:
    """A convolution with its scale and bias.

    Attributes:
        name: node name.
        op: one of the operator names of `format`.
        source: codes or pixels it reads.
        output: features it makes.
        weight_shape: (O, kh, kw, C).
        strides: (y, x).
        pads: (top, left, bottom, right).
        scale: float32 [O].
        bias: float32 [O].
        planes: uint8 [O, ceil(K / 8)] each, in the operator's order; empty for `PixelConv`.
        pixel_weight: int8 [O, C, kh, kw] of a `PixelConv`.
        zero_point: padding value of a `PixelConv`.
    """

    name: str
    op: str
    source: str
    output: str
    weight_shape: tuple[int, int, int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    planes: tuple[NDArray[np.uint8], ...] = ()
    pixel_weight: NDArray[np.int8] | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class FloatConv:
    """A float32 convolution on features: weight [O, C / group, kh, kw], bias [O]; `levels` is what the file stores."""

    name: str
    source: str
    output: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int
    levels: str = "float"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, kh, kw, C / group)."""
        o, c, kh, kw = self.weight.shape
        return o, kh, kw, c


@dataclass(frozen=True)
class Load:
    """The input as features: (pixel - mean) / std, float32 [C] each, or float32 input as it is (mean and std None)."""

    name: str
    source: str
    output: str
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class FakeQuantize:
    """step * min(max(round(x / step), low), high) as features; `Bipolar` (step None): `low` or `high` by the sign."""

    name: str
    source: str
    output: str
    step: float | None
    low: float
    high: float


@dataclass(frozen=True)
class AveragePool:
    """Mean over all pixels: features [C, H, W] to [C, 1, 1]."""

    name: str
    source: str
    output: str


@dataclass(frozen=True)
class Output:
    """Features [C, 1, 1] as the logits."""

    name: str
    source: str
    output: str


@dataclass(frozen=True)
class Quantizer:
    """Features to codes of `bits` bits: `Quantize` with its float32 step, or (step None) `Sign` or `ChannelSign`."""

    name: str
    source: str
    output: str
    bits: int
    step: float | None
    thresholds: NDArray[np.float32] | None = None  # [C]


@dataclass(frozen=True)
class Add:
    """Sum of two features."""

    name: str
    sources: tuple[str, str]
    output: str


@dataclass(frozen=True)
class Relu:
    """max(x, 0) of features."""

    name: str
    source: str
    output: str


@dataclass(frozen=True)
class PRelu:
    """x where x > 0, else slope * x, of features; slope float32 [C]."""

    name: str
    source: str
    output: str
    slope: NDArray[np.float32]


@dataclass(frozen=True)
class MaxPool:
    """ONNX MaxPool: kernel (kh, kw), strides (y, x), pads (top, left, bottom, right)."""

    name: str
    source: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class PadShortcut:
    """Subsampling by `steps` (y, x), then `front` and `back` zero channels."""

    name: str
    source: str
    output: str
    steps: tuple[int, int]
    front: int
    back: int


@dataclass(frozen=True)
class Classifier:
    """Mean over the pixels of features, then Gemm: weight float32 [classes, C], bias float32 [classes]; `levels` as above.

    Where the file has int8 weights, `weight` is float32(`integers`) * `unit`: int8 [classes, C], float32 [classes].
    """

    name: str
    source: str
    output: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    levels: str = "float"
    integers: NDArray[np.int8] | None = None
    unit: NDArray[np.float32] | None = None


Node = (
    Conv
    | FloatConv
    | Load
    | FakeQuantize
    | AveragePool
    | Output
    | Quantizer
    | Add
    | Relu
    | PRelu
    | MaxPool
    | PadShortcut
    | Classifier
)


def sources(node: Node) -> tuple[str, ...]:
    """Names of the tensors a node reads."""
    return node.sources if isinstance(node, Add) else (node.source,)


@dataclass(frozen=True)
class Model:
    """A packed file.

    Attributes:
        label: what to call the file in messages.
        nodes: in topological order.
        tensors: every value, by name.
        input_name: name of the pixels.
        output_name: name of the logits.
        metadata: `metadata_props`.
    """

    label: str
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    input_name: str
    output_name: str
    metadata: dict[str, str]
