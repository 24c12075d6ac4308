"""Instructions of the compiled walker, a type each, with the memory that each touches.

A plan is a list of them; `instructions.table` writes each as a row that `kernels.walker` reads. Addresses are byte offsets into
the arena (the memory of one image) or, where a comment says so, into the constants; strides are in bytes.

Named tuples, since a frozen dataclass takes a millisecond of every start to define.
"""

from collections.abc import Iterator
from typing import NamedTuple

from bitplane.runtime.instructions.parts import (
    VECTOR,
    Access,
    Activation,
    Codes,
    Epilogue,
    Image,
    Machine,
    Quantization,
    Results,
    Scratch,
    pixels,
)
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import LOOK_UPS
from bitplane.runtime.layouts import BLOCK, pad_channels

__all__ = [
    "Access",
    "Activation",
    "AveragePool",
    "Classify",
    "Codes",
    "Convolve",
    "Elementwise",
    "Epilogue",
    "FakeQuantize",
    "Image",
    "Instruction",
    "Interleave",
    "Load",
    "Machine",
    "MaxPool",
    "Output",
    "PadShortcut",
    "Quantization",
    "Results",
    "Scratch",
]


class Interleave(NamedTuple):
    """The uint8 image [C, H, W] to channels last, inside a halo that holds the zero point."""

    OP = f.OP_IMAGE
    height: int
    width: int
    channels: int
    codes: int
    codes_row: int

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        yield Access("image", 0, self.channels * self.height * self.width)
        yield pixels(self.codes, self.height, self.codes_row, self.width, self.channels, self.channels, writes=True)


class Convolve(NamedTuple):
    """A convolution: tiles of products, then thresholds in registers or the epilogue.

    A convolution whose `band` is not 0 runs together with the max pool after it, that many rows of the pool at a time, and its
    features have a place for `band_rows` rows of each thread only.
    """

    OP = f.OP_CONV
    tile: int  # index into the processor's tiles
    source: int  # arena: first tap of output pixel (0, 0)
    source_plane: int  # between bit-planes
    source_planes: int
    source_row: int  # between kernel rows
    source_step_y: int  # between output rows
    source_step_x: int  # between output pixels
    kernel_rows: int
    kernel_words: int  # of one kernel row
    span: int  # words whose sums narrow lanes hold
    table: int  # constants: sums of a look-up tile
    weights: int  # constants
    weights_group: int  # between channel groups
    groups: int
    group_channels: int  # rows of the weight matrix in a group
    vectors: int  # of 16 output channels in a group
    height: int
    width: int
    mode: int  # one of MODE_
    limits: int  # constants: thresholds of accumulators
    limits_group: int
    scratch: Scratch
    epilogue: Epilogue
    band: int = 0
    band_rows: int = 0

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        tile = machine.tiles[self.tile]
        last = (self.height - 1) * self.source_step_y + (self.width - 1) * self.source_step_x
        last += (self.kernel_rows - 1) * self.source_row + self.kernel_words * tile.word
        for plane in range(self.source_planes):
            at = self.source + plane * self.source_plane
            yield Access("arena", at, at + last)
        yield Access("constants", self.weights, self.weights + self.groups * self.weights_group)
        if tile.kind in LOOK_UPS:
            yield Access("constants", self.table, self.table + (16 << 8))
        channels, e = BLOCK * self.vectors * self.groups, self.epilogue
        stored_height = machine.threads * self.band_rows if self.band else self.height
        if self.mode == f.MODE_ROW:
            yield self.scratch.access(machine.threads)
            yield from e.accesses(self.height, self.width, channels, stored_height)
        elif self.mode == f.MODE_POOL:
            yield pixels(e.features, stored_height, e.features_row, self.width, e.features_pixel, 4 * channels, writes=True)
        else:
            yield Access("constants", self.limits, self.limits + self.groups * self.limits_group)
            in_pixel = channels // 4 if self.mode == f.MODE_FOURS else 0
            yield from e.output.accesses(self.height, self.width, in_pixel, channels // 8)


class Elementwise(NamedTuple):
    """Features through the epilogue alone."""

    OP = f.OP_ELEMENTWISE
    source: int
    source_step_y: int
    source_step_x: int
    vectors: int
    groups: int
    height: int
    width: int
    epilogue: Epilogue

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        size = VECTOR * self.vectors
        yield pixels(self.source, self.height, self.source_step_y, self.width, self.source_step_x, size)
        yield from self.epilogue.accesses(self.height, self.width, BLOCK * self.vectors, self.height)


class MaxPool(NamedTuple):
    """A max pool, then the epilogue. `band` is -1 where it runs with the convolution before it (see there)."""

    OP = f.OP_MAX_POOL
    image: Image
    height: int
    width: int
    channels: int
    vectors: int
    groups: int
    kernel_rows: int
    kernel_width: int
    stride_y: int
    stride_x: int
    pad_top: int
    pad_left: int
    scratch: Scratch
    epilogue: Epilogue
    band: int = 0
    band_rows: int = 0

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        rows = machine.threads * self.band_rows if self.band else self.image.source_height
        at, step = self.image.source, self.image.source_step_x
        yield pixels(at, rows, self.image.source_row, self.image.source_width, step, 4 * self.channels)
        e = self.epilogue
        if e.quantization.quant != f.QUANT_NONE or e.results.source_kind == f.FROM_ACCUMULATORS:
            yield self.scratch.access(machine.threads)
            yield from e.accesses(self.height, self.width, self.channels, self.height)
        else:
            size = 4 * self.channels
            yield pixels(e.features, self.height, e.features_row, self.width, e.features_pixel, size, writes=True)


class PadShortcut(NamedTuple):
    """Subsampled features, `front` zero channels before them and the rest behind."""

    OP = f.OP_PAD_SHORTCUT
    height: int
    width: int
    channels: int
    source: int
    source_step_y: int
    source_step_x: int
    source_channels: int
    front: int
    features: int
    features_row: int
    features_pixel: int

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches: whole vectors where channels move by whole vectors."""
        have = pad_channels(self.source_channels) if self.front % BLOCK == 0 else self.source_channels
        yield pixels(self.source, self.height, self.source_step_y, self.width, self.source_step_x, 4 * have)
        size = 4 * self.channels
        yield pixels(self.features, self.height, self.features_row, self.width, self.features_pixel, size, writes=True)


class Classify(NamedTuple):
    """Mean over the pixels, then a matrix-vector product in blocks of classes."""

    OP = f.OP_CLASSIFIER
    mean_of: Image
    channels: int
    classes: int
    groups: int
    vectors: int
    weights: int  # constants
    weights_group: int
    is_int8: int  # weights are int8, and `unit` float32 a class; else float32
    unit: int
    bias: int
    scratch: Scratch

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        yield self.mean_of.access(self.channels)
        yield self.scratch.access(machine.threads)
        yield Access("constants", self.weights, self.weights + self.groups * self.weights_group)
        size = VECTOR * self.vectors * self.groups
        yield Access("constants", self.bias, self.bias + size)
        if self.is_int8:
            yield Access("constants", self.unit, self.unit + size)
        yield Access("logits", 0, 4 * self.classes, writes=True)


class Load(NamedTuple):
    """The input [C, H, W] as features, channels last."""

    OP = f.OP_LOAD
    height: int
    width: int
    channels: int
    source_channels: int
    normalizes: int  # whether the input is uint8 pixels
    mean: int  # constants: float32
    std: int
    features: int
    features_row: int

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        yield Access("image", 0, (1 if self.normalizes else 4) * self.source_channels * self.height * self.width)
        if self.normalizes:
            yield from (Access("constants", at, at + 4 * self.source_channels) for at in (self.mean, self.std))
        yield pixels(self.features, self.height, self.features_row, 1, 0, 4 * self.width * self.channels, writes=True)


class FakeQuantize(NamedTuple):
    """Features as the values of their codes."""

    OP = f.OP_FAKE_QUANTIZE
    height: int
    row_bytes: int  # of a row of features, of the source and of the result
    source: int
    features: int
    by_sign: int  # one of two values by the sign, without a step
    low: int  # constants: float32, smallest and largest code, or the two values
    step: int  # constants: float32

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        size = self.height * self.row_bytes
        yield Access("arena", self.source, self.source + size)
        yield Access("arena", self.features, self.features + size, writes=True)
        yield Access("constants", self.low, self.low + 8)
        if not self.by_sign:
            yield Access("constants", self.step, self.step + 4)


class AveragePool(NamedTuple):
    """The mean over all pixels."""

    OP = f.OP_AVERAGE_POOL
    mean_of: Image
    channels: int
    features: int

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        yield self.mean_of.access(self.channels)
        yield Access("arena", self.features, self.features + 4 * self.channels, writes=True)


class Output(NamedTuple):
    """Features of one pixel as the logits."""

    OP = f.OP_OUTPUT
    source: int
    channels: int

    def accesses(self, machine: Machine) -> Iterator[Access]:
        """What it touches."""
        yield Access("arena", self.source, self.source + 4 * self.channels)
        yield Access("logits", 0, 4 * self.channels, writes=True)


Instruction = (
    Interleave | Convolve | Elementwise | MaxPool | PadShortcut | Classify | Load | FakeQuantize | AveragePool | Output
)
