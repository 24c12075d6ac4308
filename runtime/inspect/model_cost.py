"""What a whole network costs on a named processor: multiply-adds, bytes moved and modeled instructions of one image.

Read off the plan that would run there, so it is the same on every machine and every day. Bytes: every value, weight and
constant that a step reads or writes, once; rows of accumulators stay in the L1 cache, and what a pool takes band by band in the
L2 cache: they do not count. Instructions: of a tile's words as in `runtime/plan/cost.py`, and around them, in vectors of 256
bits,

| for each | instructions |
|---|---|
| tile and kernel row | 47 |
| vector of a tile and plane, bits counted a byte | 13 |
| vector of a tile and span of words: products summed in 16 bits; look-ups | 48; 8 |
| row of a channel group | 270 |
| 16 results that leave by the float epilogue: from features, accumulators, sums, plane pairs | 11, 34, 34, 85 |
| the same, codes of 1, 2 bits by thresholds, four a byte; others by division | 9, 27, 30; 25 |
| vector and threshold, where accumulators become codes in registers | 6 |

fitted to callgrind's counts of every step of twelve networks compiled for Haswell: single convolutions come out within 14 % of
the count, networks within 12 %; within 18 % and 8 % on four networks that were not fitted. For the other processors the numbers
are scaled by the width of a vector, and not checked.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from bitplane.runtime.errors import InputError
from bitplane.runtime.inspect.describe import describe
from bitplane.runtime.instructions import (
    AveragePool,
    Classify,
    Convolve,
    Elementwise,
    Epilogue,
    FakeQuantize,
    Instruction,
    Interleave,
    Load,
    MaxPool,
    Output,
    PadShortcut,
)
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import LOOK_UPS, tiles_for
from bitplane.runtime.kernels.target import CPUS, Cpu
from bitplane.runtime.model.parse import parse
from bitplane.runtime.plan.cost import LOOK_UP_SPAN, word_cost
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.plan import Plan
from bitplane.runtime.plan.spans import count_spans

BLOCK = 64
"""Bytes of 16 features."""

KERNEL_ROW, FAST_KERNEL_ROW = 47, 10  # the second where words are not counted a byte
PLANE_VECTOR, FAST_PLANE_VECTOR = 13, 1
SPAN_VECTOR = 48
GROUP_ROW = 270
EPILOGUE = {f.FROM_FEATURES: 11, f.FROM_ACCUMULATORS: 34, f.FROM_SUMS: 34, f.FROM_PLANE_PAIRS: 85}
QUANTIZE = {f.QUANT_NONE: 0, f.QUANT_ONE: 9, f.QUANT_TWO: 27, f.QUANT_DIVIDE: 25, f.QUANT_BYTES: 25, f.QUANT_FOURS: 30}
THRESHOLD = 6
COPY, NORMALIZE, POOL_TAP = 28, 350, 12  # of 16 features
SCALAR_PIXEL = 16  # where there are not three channels to interleave
MEAN_PIXEL, MEAN = 30, 4  # a pixel; 16 features of it
DENSE, DENSE_INT8 = 8, 12  # 16 weights


@dataclass(frozen=True)
class StepCost:
    """One step of a plan, for one image.

    Attributes:
        name: of its first node.
        kernel: what runs it.
        multiply_adds: of a convolution or fully connected layer, as the network defines it; 0 for others.
        bytes_moved: read and written, each once.
        instructions: modeled.
    """

    name: str
    kernel: str
    multiply_adds: int
    bytes_moved: int
    instructions: int


@dataclass(frozen=True)
class ModelCost:
    """A network on a processor, for one image.

    Attributes:
        cpu: name of the processor's set of features.
        steps: in the plan's order.
    """

    cpu: str
    steps: tuple[StepCost, ...]

    @property
    def multiply_adds(self) -> int:
        """Of all steps."""
        return sum(s.multiply_adds for s in self.steps)

    @property
    def bytes_moved(self) -> int:
        """Of all steps."""
        return sum(s.bytes_moved for s in self.steps)

    @property
    def instructions(self) -> int:
        """Of all steps."""
        return sum(s.instructions for s in self.steps)


def model_cost(path_or_bytes: str | os.PathLike[str] | bytes, cpu: str = "avx2") -> ModelCost:
    """The deterministic cost of a packed file on a named processor, whatever machine this is.

    Args:
        path_or_bytes: a packed file, or its bytes.
        cpu: "generic", "neon", "avx2", "avx512" or "avx512-vpopcntdq".

    Raises:
        InputError: an unknown processor.
        ModelError: the file cannot be read or breaks a rule of the format.
    """
    if cpu not in CPUS:
        raise InputError(f"cpu '{cpu}' is unknown, expected one of {', '.join(CPUS)}")
    source = path_or_bytes if isinstance(path_or_bytes, bytes) else Path(path_or_bytes)
    model = parse(source)
    plan = make_plan(model, PlanOptions(cpu=CPUS[cpu]))
    work = {layer.name: layer.multiply_adds for layer in describe(model, plan.kernels(), plan.estimates)}
    steps = [
        StepCost(s.name, s.kernel.text, work.get(s.name, 0), _bytes(i), round(_instructions(i, CPUS[cpu])))
        for s, i in zip(plan.steps, plan.instructions, strict=True)
    ]
    return ModelCost(cpu, tuple(steps))


def instructions(plan: Plan) -> float:
    """Modeled instructions of one image: of the processor that the plan was made for."""
    return sum(_instructions(i, plan.options.cpu) for i in plan.instructions)


def _bytes(i: Instruction) -> int:
    """Bytes read and written, each once."""
    match i:
        case Convolve():
            rows = (i.height - 1) * i.source_step_y + i.kernel_rows * i.source_row
            e, factors = i.epilogue, (3 + i.epilogue.activation.prelu) * BLOCK * i.vectors
            constants = i.weights_group + (i.limits_group or factors)
            out = _epilogue_bytes(e, i.height * i.width, i.groups * i.vectors, bool(i.band), i.mode == f.MODE_FOURS)
            return out + i.source_planes * rows + i.groups * constants
        case Elementwise():
            out = _epilogue_bytes(i.epilogue, i.height * i.width, i.groups * i.vectors)
            return out + i.height * i.source_step_y
        case MaxPool():
            e, area = i.epilogue, i.height * i.width
            source = i.image.source_height * i.image.source_width
            planes = e.output.codes_planes if e.quantization.quant != f.QUANT_BYTES else 1
            return 4 * (area * e.store + source * (i.band == 0)) * i.channels + area * e.output.codes_pixel * planes
        case Interleave():
            return 2 * i.height * i.width * i.channels
        case Load():
            return (1 if i.normalizes else 4) * i.height * i.width * i.source_channels + i.height * i.features_row
        case FakeQuantize():
            return 2 * i.height * i.row_bytes
        case PadShortcut():
            return 4 * i.height * i.width * (i.source_channels + i.channels)
        case AveragePool():
            return 4 * (i.mean_of.source_height * i.mean_of.source_width + 1) * i.channels
        case Classify():
            area = i.mean_of.source_height * i.mean_of.source_width
            return 4 * (area * i.channels + 2 * i.classes) + i.groups * i.weights_group
        case Output():
            return 8 * i.channels


def _epilogue_bytes(e: Epilogue, area: int, vectors: int, is_banded: bool = False, fours: bool = False) -> int:
    """Features stored, residual read and codes written, of `area` pixels of `vectors` vectors of 16 channels."""
    out = BLOCK * area * vectors * ((e.store and not is_banded) + (e.residual_pixel > 0))
    return out + area * e.output.codes_pixel * (1 if fours or e.side_by_side else e.output.codes_planes)


def _instructions(i: Instruction, cpu: Cpu) -> float:
    """Modeled instructions."""
    width = 1 if cpu.avx2 and not cpu.avx512 else 0.5 if cpu.avx512 else 2  # vectors of this processor for one of 256 bits
    match i:
        case Convolve():
            return _conv_instructions(i, cpu, width)
        case Elementwise():
            return GROUP_ROW * i.height + width * _epilogue(i.epilogue, i.height * i.width * i.groups * i.vectors)
        case MaxPool():
            e = i.epilogue
            taps = width * POOL_TAP * i.kernel_rows * i.kernel_width * i.height * i.width * i.channels / 16
            has_epilogue = e.quantization.quant != f.QUANT_NONE or e.results.source_kind != f.FROM_FEATURES
            return taps + width * _epilogue(e, i.height * i.width * i.groups * i.vectors) * has_epilogue
        case Interleave():
            return i.height * i.width * i.channels * (1 if i.channels == 3 and i.width >= 16 else SCALAR_PIXEL)
        case Load():
            return NORMALIZE * i.height * i.width * i.source_channels / 16
        case FakeQuantize():
            kind = f.QUANT_ONE if i.by_sign else f.QUANT_DIVIDE
            return width * (COPY + QUANTIZE[kind]) * i.height * i.row_bytes / BLOCK
        case PadShortcut():
            return width * COPY * i.height * i.width * i.channels / 16
        case AveragePool() | Classify():
            area = i.mean_of.source_height * i.mean_of.source_width
            mean = area * (MEAN_PIXEL + width * MEAN * i.channels / 16)
            if isinstance(i, AveragePool):
                return mean
            return mean + width * (DENSE_INT8 if i.is_int8 else DENSE) * i.channels * i.groups * i.vectors
        case Output():
            return COPY * i.channels / 16


def _epilogue(e: Epilogue, blocks: int) -> int:
    """Instructions of an epilogue for `blocks` vectors of 16 results, in vectors of 256 bits."""
    return blocks * (EPILOGUE[e.results.source_kind] + QUANTIZE[e.quantization.quant] + e.activation.cost)


def _conv_instructions(i: Convolve, cpu: Cpu, width: float) -> float:
    tile = tiles_for(cpu)[i.tile]
    rows = i.groups * i.height
    count = rows * -(-i.width // tile.pixels)
    runs = count * i.source_planes
    vectors = tile.pixels * tile.group * tile.bits / 256
    is_bits = tile.kind in ("binary", "ternary")
    fast = is_bits and cpu.popcount
    out = runs * i.kernel_rows * i.kernel_words * word_cost(tile, cpu) + GROUP_ROW * rows
    if not tile.taps:
        out += (FAST_KERNEL_ROW if fast else KERNEL_ROW) * runs * i.kernel_rows
    if is_bits:
        out += width * (FAST_PLANE_VECTOR if fast else PLANE_VECTOR) * runs * vectors
    if tile.kind == "dot16" or tile.kind in LOOK_UPS:
        spans = count_spans(i.kernel_rows, i.kernel_words, i.span)
        out += (SPAN_VECTOR if tile.kind == "dot16" else LOOK_UP_SPAN) * runs * spans * vectors
    if i.mode == f.MODE_POOL:
        return out
    if i.mode != f.MODE_ROW:
        return out + width * THRESHOLD * (3 if i.mode == f.MODE_TWO else 1) * count * vectors
    return out + width * _epilogue(i.epilogue, i.height * i.width * i.groups * i.vectors)
