"""What instructions are made of, and the memory that each part touches."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import Tile

Space = Literal["arena", "constants", "image", "logits"]
VECTOR = 64
"""Bytes of 16 features, accumulators or factors."""


class Access(NamedTuple):
    """Bytes [start, stop) of a space that an instruction reads or writes for one image, all threads together."""

    space: Space
    start: int
    stop: int
    writes: bool = False


class Machine(NamedTuple):
    """What the memory that instructions touch depends on besides themselves: tiles of the processor, and threads."""

    tiles: Sequence[Tile]
    threads: int


class Scratch(NamedTuple):
    """Memory of each thread, one part after the other: rows of accumulators, a row of a pool, or means and logits."""

    scratch: int = 0
    scratch_part: int = 0

    def access(self, threads: int) -> Access:
        """All parts."""
        return Access("arena", self.scratch, self.scratch + threads * self.scratch_part, writes=True)


class Image(NamedTuple):
    """Features [H, W, C] as they are read: address, strides and size."""

    source: int
    source_row: int
    source_step_x: int
    source_height: int
    source_width: int

    def access(self, channels: int) -> Access:
        """Whole pixels of `channels` float32."""
        last = (self.source_height - 1) * self.source_row + (self.source_width - 1) * self.source_step_x
        return Access("arena", self.source, self.source + last + 4 * channels)


class Codes(NamedTuple):
    """Where codes are written; the address is that of pixel (0, 0)."""

    codes: int = 0
    codes_plane: int = 0
    codes_row: int = 0
    codes_pixel: int = 0
    codes_planes: int = 0  # bits of a code

    def accesses(self, height: int, width: int, in_pixel: int, in_plane: int) -> Iterator[Access]:
        """Writes of codes: `in_pixel` bytes of each pixel, or (0) `in_plane` bytes of each pixel in each plane."""
        for plane in range(1 if in_pixel else self.codes_planes):
            at = self.codes + plane * self.codes_plane
            yield pixels(at, height, self.codes_row, width, self.codes_pixel, in_pixel or in_plane, writes=True)


class Quantization(NamedTuple):
    """How an epilogue makes codes of features."""

    quant: int = f.QUANT_NONE
    levels: int = 0  # constants: float32 thresholds
    levels_stride: int = 0
    step: int = 0  # constants: float32


class Activation(NamedTuple):
    """What an epilogue does to a sum before it stores and quantizes it; at most one."""

    relu: int = 0
    prelu: int = 0
    slope: int = 0  # constants: float32 a channel
    clip: int = 0
    clip_limits: int = 0  # constants: two float32

    @property
    def factors(self) -> tuple[int, ...]:
        """Constants of one float32 a channel."""
        return (self.slope,) if self.prelu else ()

    @property
    def cost(self) -> int:
        """Instructions for 16 features, in vectors of 256 bits: multiply, compare and choose; or compare and choose twice."""
        return 6 * self.prelu + 8 * self.clip


class Results(NamedTuple):
    """What an epilogue starts from: accumulators (times scale, plus bias), sums (plus bias), or features."""

    source_kind: int  # one of FROM_
    offset: int = 0  # constants: int32 a channel
    scale: int = 0  # constants: float32 a channel
    bias: int = 0  # constants: float32 a channel
    sign1: int = 0  # of plane pairs: twice the accumulator is sign1 times the first sum plus sign2 times the second
    sign2: int = 0

    @property
    def factors(self) -> tuple[int, ...]:
        """Constants of one number a channel."""
        if self.source_kind == f.FROM_FEATURES:
            return ()
        return (self.bias,) if self.source_kind == f.FROM_SUMS else (self.offset, self.scale, self.bias)


class Epilogue(NamedTuple):
    """Results to features and codes; features have a place only where `store` is 1."""

    results: Results
    activation: Activation = Activation()
    quantization: Quantization = Quantization()
    output: Codes = Codes()
    residual: int = 0  # arena: features to add, or a row of zeros with strides of 0
    residual_row: int = 0
    residual_pixel: int = 0
    store: int = 0
    features: int = 0
    features_row: int = 0
    features_pixel: int = 0

    def accesses(self, height: int, width: int, channels: int, stored_height: int) -> Iterator[Access]:
        """What it touches for features [height, width, channels], of which `stored_height` rows have a place."""
        row = 4 * channels
        yield pixels(self.residual, height, self.residual_row, width, self.residual_pixel, row)
        if self.store:
            yield pixels(self.features, stored_height, self.features_row, width, self.features_pixel, row, writes=True)
        for at in (*self.results.factors, *self.activation.factors):
            yield Access("constants", at, at + row)
        if self.activation.clip:
            yield Access("constants", self.activation.clip_limits, self.activation.clip_limits + 8)
        q = self.quantization
        if q.quant in (f.QUANT_DIVIDE, f.QUANT_BYTES):
            yield Access("constants", q.step, q.step + 4)
        elif q.quant != f.QUANT_NONE:
            last = 0 if q.quant == f.QUANT_ONE else 2
            yield Access("constants", q.levels, q.levels + last * q.levels_stride + row)
        if q.quant != f.QUANT_NONE:
            in_pixel = {f.QUANT_BYTES: channels, f.QUANT_FOURS: channels // 4}.get(q.quant, 0)
            yield from self.output.accesses(height, width, in_pixel, channels // 8)

    @property
    def side_by_side(self) -> bool:
        """Whether codes are stored in bytes, whole or shared, and not in planes."""
        return self.quantization.quant in (f.QUANT_BYTES, f.QUANT_FOURS)


def pixels(at: int, height: int, row: int, width: int, pixel: int, size: int, *, writes: bool = False) -> Access:
    """The bytes of the arena from the first to the last pixel of an image, each of `size` bytes."""
    return Access("arena", at, at + (height - 1) * row + (width - 1) * pixel + size, writes)
