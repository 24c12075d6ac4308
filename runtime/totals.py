"""What a whole network costs on a named processor: multiply-adds, bytes moved and modeled instructions of one image.

Read off the plan that would run there, so it is the same on every machine and every day. Bytes: every value, weight and
constant that a step reads or writes, once; rows of accumulators stay in the first cache, and what a pool takes band by band in
the second: they do not count. Instructions: of a tile's words as in `bitplane.runtime.cost`, and around them, in vectors of 256
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
from math import prod
from pathlib import Path

from bitplane.runtime.cost import LOOK_UP_SPAN, word_cost
from bitplane.runtime.describe import describe
from bitplane.runtime.errors import InputError
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import LOOK_UPS, tiles_for
from bitplane.runtime.kernels.target import CPUS, MACHINE, Cpu
from bitplane.runtime.packing import count_spans
from bitplane.runtime.parse import parse
from bitplane.runtime.plan import Plan, make_plan

BLOCK = 64
"""Bytes of 16 features."""

KERNEL_ROW, FAST_KERNEL_ROW = 47, 10  # the second where words are not counted a byte
PLANE_VECTOR, FAST_PLANE_VECTOR = 13, 1
SPAN_VECTOR = 48
GROUP_ROW = 270
EPILOGUE = {f.FROM_FEATURES: 11, f.FROM_ACCUMULATORS: 34, f.FROM_SUMS: 34, f.FROM_PLANE_PAIRS: 85}
QUANTIZE = {f.QUANT_NONE: 0, f.QUANT_ONE: 9, f.QUANT_TWO: 27, f.QUANT_DIVIDE: 25, f.QUANT_BYTES: 25, f.QUANT_FOURS: 30}
SLOPE = 6  # of a PReLU: multiply, compare and choose
THRESHOLD = 6
COPY, NORMALIZE, POOL_TAP = 28, 350, 12  # of 16 features
SCALAR_PIXEL = 16  # where there are not three channels to interleave
MEAN_PIXEL, MEAN = 30, 4  # a pixel; 16 features of it
DENSE = {f.WEIGHTS_FLOAT: 8, f.WEIGHTS_INT8: 12}  # 16 weights


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
    plan = make_plan(model, cpu=CPUS[cpu])
    work = {layer.name: layer.multiply_adds for layer in describe(model, dict(plan.kernels), plan.estimates)}
    steps = [
        StepCost(name, kernel, work.get(name, 0), _bytes(row), round(_instructions(row, CPUS[cpu])))
        for (name, kernel), row in zip(plan.steps, plan.table.tolist(), strict=True)
    ]
    return ModelCost(cpu, tuple(steps))


def instructions(plan: Plan, cpu: Cpu = MACHINE) -> float:
    """Modeled instructions of one image: of the processor that the plan was made for."""
    return sum(_instructions(row, cpu) for row in plan.table.tolist())


def _blocks(row: list[int]) -> int:
    """Vectors of 16 results of a convolution or an elementwise step."""
    return row[f.HEIGHT] * row[f.WIDTH] * row[f.GROUPS] * row[f.VECTORS]


def _bytes(row: list[int]) -> int:
    op, area = row[f.OP], row[f.HEIGHT] * row[f.WIDTH]
    source_area = row[f.SRC_HEIGHT] * row[f.SRC_WIDTH]
    if op in (f.OP_CONV, f.OP_ELEMENTWISE):
        out = BLOCK * _blocks(row) * ((row[f.STORE] and not row[f.BAND]) + (row[f.RESIDUAL_PIXEL] > 0))
        side_by_side = row[f.QUANT] in (f.QUANT_BYTES, f.QUANT_FOURS) or row[f.MODE] == f.MODE_FOURS
        planes = 1 if side_by_side else row[f.CODES_PLANES]
        out += area * row[f.CODES_PIXEL] * planes
        if op == f.OP_ELEMENTWISE:
            return out + row[f.HEIGHT] * row[f.SRC_STEP_Y]
        rows = (row[f.HEIGHT] - 1) * row[f.SRC_STEP_Y] + row[f.KERNEL_ROWS] * row[f.SRC_ROW]
        constants = row[f.WEIGHTS_GROUP] + (
            row[f.LIMITS_GROUP] if row[f.LIMITS] else (3 + row[f.PRELU]) * BLOCK * row[f.VECTORS]
        )
        return out + row[f.SRC_PLANES] * rows + row[f.GROUPS] * constants
    if op == f.OP_IMAGE:
        return 2 * area * row[f.CHANNELS]
    if op == f.OP_LOAD:
        item = 4 if row[f.SRC_KIND] == f.FROM_FEATURES else 1
        return item * area * row[f.SRC_CHANNELS] + row[f.HEIGHT] * row[f.FEATURES_ROW]
    if op == f.OP_FAKE_QUANTIZE:
        return 2 * row[f.HEIGHT] * row[f.FEATURES_ROW]
    if op == f.OP_PAD_SHORTCUT:
        return 4 * area * (row[f.SRC_CHANNELS] + row[f.CHANNELS])
    if op == f.OP_MAX_POOL:
        out = 4 * (area * row[f.STORE] + source_area * (row[f.BAND] == 0)) * row[f.CHANNELS]
        return out + area * row[f.CODES_PIXEL] * (row[f.CODES_PLANES] if row[f.QUANT] != f.QUANT_BYTES else 1)
    if op == f.OP_AVERAGE_POOL:
        return 4 * (source_area + 1) * row[f.CHANNELS]
    if op == f.OP_CLASSIFIER:
        return 4 * (source_area * row[f.CHANNELS] + 2 * row[f.WIDTH]) + row[f.GROUPS] * row[f.WEIGHTS_GROUP]
    return 8 * row[f.CHANNELS]  # OP_OUTPUT


def _instructions(row: list[int], cpu: Cpu) -> float:
    op, area, vectors = row[f.OP], row[f.HEIGHT] * row[f.WIDTH], row[f.CHANNELS] / 16
    width = 1 if cpu.avx2 and not cpu.avx512 else 0.5 if cpu.avx512 else 2  # vectors of this processor for one of 256 bits
    if op == f.OP_CONV:
        return _conv_instructions(row, cpu, width)
    if op == f.OP_ELEMENTWISE:
        return GROUP_ROW * row[f.HEIGHT] + width * _epilogue(row)
    if op == f.OP_IMAGE:
        return area * row[f.CHANNELS] * (1 if row[f.CHANNELS] == 3 and row[f.WIDTH] >= 16 else SCALAR_PIXEL)
    if op == f.OP_LOAD:
        return NORMALIZE * area * row[f.SRC_CHANNELS] / 16
    if op == f.OP_FAKE_QUANTIZE:
        return width * (COPY + QUANTIZE[row[f.QUANT]]) * row[f.HEIGHT] * row[f.FEATURES_ROW] / BLOCK
    if op == f.OP_PAD_SHORTCUT:
        return width * COPY * area * vectors
    if op == f.OP_MAX_POOL:
        taps = width * POOL_TAP * row[f.KERNEL_ROWS] * row[f.KERNEL_WIDTH] * area * vectors
        return taps + width * _epilogue(row) * (row[f.QUANT] != f.QUANT_NONE or row[f.SRC_KIND] != f.FROM_FEATURES)
    mean = row[f.SRC_HEIGHT] * row[f.SRC_WIDTH] * (MEAN_PIXEL + width * MEAN * vectors)
    if op == f.OP_CLASSIFIER:
        return mean + width * DENSE[row[f.MODE]] * row[f.CHANNELS] * row[f.GROUPS] * row[f.VECTORS]
    return mean if op == f.OP_AVERAGE_POOL else COPY * vectors


def _epilogue(row: list[int]) -> int:
    return _blocks(row) * (EPILOGUE[row[f.SRC_KIND]] + QUANTIZE[row[f.QUANT]] + SLOPE * row[f.PRELU])


def _conv_instructions(row: list[int], cpu: Cpu, width: float) -> float:
    tile = tiles_for(cpu)[row[f.TILE]]
    rows = row[f.GROUPS] * row[f.HEIGHT]
    count = rows * -(-row[f.WIDTH] // tile.pixels)
    runs = count * row[f.SRC_PLANES]
    words = runs * prod((row[f.KERNEL_ROWS], row[f.KERNEL_WORDS]))
    vectors = tile.pixels * tile.group * tile.bits / 256
    is_bits = tile.kind in ("binary", "ternary")
    is_spanned = tile.kind == "dot16" or tile.kind in LOOK_UPS
    fast = is_bits and cpu.popcount
    out = words * word_cost(tile, cpu) + GROUP_ROW * rows
    if not tile.taps:
        out += (FAST_KERNEL_ROW if fast else KERNEL_ROW) * runs * row[f.KERNEL_ROWS]
    if is_bits:
        out += width * (FAST_PLANE_VECTOR if fast else PLANE_VECTOR) * runs * vectors
    if is_spanned:
        spans = count_spans(row[f.KERNEL_ROWS], row[f.KERNEL_WORDS], row[f.SPAN])
        out += (SPAN_VECTOR if tile.kind == "dot16" else LOOK_UP_SPAN) * runs * spans * vectors
    if row[f.MODE] == f.MODE_POOL:
        return out
    if row[f.MODE]:
        return out + width * THRESHOLD * (3 if row[f.MODE] == f.MODE_TWO else 1) * count * vectors
    return out + width * _epilogue(row)
