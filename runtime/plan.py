"""Steps to a table: picks a tile for every convolution, packs its constants and gives every value its place in the arena."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.arena import BYTES, FOURS, Arena, CodesLayout, Constants, FeaturesLayout, round_up
from bitplane.runtime.cost import Estimate, cheapest_tile, codes_cost, store_cost
from bitplane.runtime.errors import ModelError
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import SCRATCH_BYTES, is_narrow, tiles_for
from bitplane.runtime.kernels.target import MACHINE, Cpu
from bitplane.runtime.lower import Step, lower
from bitplane.runtime.memory import memory_limit
from bitplane.runtime.model import (
    AveragePool,
    Classifier,
    Conv,
    FakeQuantize,
    FloatConv,
    Load,
    MaxPool,
    Model,
    Output,
    PadShortcut,
    Quantizer,
)
from bitplane.runtime.packing import (
    BLOCK,
    float_levels,
    four_bound,
    integer_levels,
    pack_levels,
    pack_weights,
    pad_channels,
    word_bits,
)  # fmt: skip
from bitplane.runtime.products import choose_product

CLASSES = 64
"""Classes of a block of the classifier; 16 where there are no more."""

BAND_BYTES = 192 << 10
"""Bytes of features that a convolution leaves to a max pool at a time: a part of a second cache."""

MAX_BYTES = 1 << 32
"""Most bytes of constants and of one arena; a model that asks for more is refused before the arena is allocated."""


@dataclass(frozen=True)
class Plan:
    """A model ready to run.

    Attributes:
        table: int64 [steps, FIELDS].
        constants: uint8, aligned; the table's constant offsets point into it.
        arena: recipe of the arena each thread needs.
        codes: layout and arena offset of every tensor of codes.
        features: layout and arena offset of every stored tensor of features.
        kernels: (layer name, what runs it), in order.
        steps: (name, what runs it) of every row of the table.
        estimates: layer name to what its convolution would cost by each product.
    """

    table: NDArray[np.int64]
    constants: NDArray[np.uint8]
    arena: Arena
    codes: dict[str, tuple[CodesLayout, int]]
    features: dict[str, tuple[FeaturesLayout, int]]
    kernels: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, str], ...]
    estimates: dict[str, Estimate]


def make_plan(
    model: Model,
    threads: int = 1,
    merge: bool = True,
    reuse: bool = True,
    inputs: tuple[str, ...] = (),
    cpu: Cpu = MACHINE,
) -> Plan:
    """Plan a model.

    Args:
        model: a checked model.
        threads: threads that may share one image; each gets its own scratch row.
        merge: whether nodes are merged into steps (False only for tracing).
        reuse: whether values share memory (False only for tracing).
        inputs: tensors that no node makes and the caller fills in the arena (for a layer by itself).
        cpu: the processor; a plan for another one than this can be looked at, not run.
    """
    try:
        return _Planner(model, threads, merge, reuse, cpu).plan(inputs)
    except MemoryError:
        raise ModelError(f"{model.label}: its weights need more memory than this process can have") from None


@dataclass
class _Planner:
    model: Model
    threads: int
    merge: bool
    reuse: bool
    cpu: Cpu = MACHINE
    constants: Constants = field(default_factory=Constants)
    codes: dict[str, tuple[CodesLayout, int]] = field(default_factory=dict[str, tuple[CodesLayout, int]])
    features: dict[str, tuple[FeaturesLayout, int]] = field(default_factory=dict[str, tuple[FeaturesLayout, int]])
    rows: list[NDArray[np.int64]] = field(default_factory=list[NDArray[np.int64]])
    estimates: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    # Of rows: the node, and what runs it if it is no layer's.
    names: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    kernels: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    halos: list[tuple[CodesLayout, int]] = field(default_factory=list[tuple[CodesLayout, int]])
    tables: dict[bytes, int] = field(default_factory=dict[bytes, int])  # of sums: where in the constants

    def plan(self, inputs: tuple[str, ...]) -> Plan:
        """Place and emit every step."""
        self.arena, self.available = Arena(self.reuse), memory_limit()
        self.convolutions: dict[str, list[Conv]] = {}
        for node in self.model.nodes:
            if isinstance(node, Conv):
                self.convolutions.setdefault(node.source, []).append(node)
        for name in inputs:
            self._take(name)
        self.steps = lower(self.model, self.merge)
        last = {name: i for i, step in enumerate(self.steps) for name in step.reads}
        widest = max(pad_channels(t.shape[0]) for t in self.model.tensors.values())
        self.zeros = self.arena.reserve(widest * 4)
        self.scratch_part = round_up(self._scratch_bytes())
        self.scratch = self.arena.reserve(self.threads * self.scratch_part)
        for i, step in enumerate(self.steps):
            dying = {name for name in (*step.reads, *step.writes) if last.get(name, i) <= i}
            for name in step.writes:
                in_place = not (isinstance(step.head, FloatConv) and step.head.source == step.residual)
                if name == step.stored and step.residual in dying and self.reuse and in_place:
                    # Each vector of the residual is read just before its sum is written: half the memory traffic.
                    self.features[name] = self.features[step.residual]
                    dying.discard(step.residual)
                else:
                    self._take(name)
            self._emit(step)
            self._check_size()
            while self.halos:
                self.arena.give_codes(*self.halos.pop())
            for name in sorted(dying):
                self._give(name)
        constants, kernels = self.constants.bytes(), dict(self.kernels)
        steps = tuple((name, kernel or kernels.get(name, "copy")) for name, kernel in self.names)
        table = np.stack(self.rows)
        table[:, f.SCRATCH_PART] = self.scratch_part
        return Plan(table, constants, self.arena, self.codes, self.features, tuple(self.kernels), steps, self.estimates)

    def _check_size(self) -> None:
        """Refuse a plan that no machine, or not this one, has memory for."""
        values, constants = self.arena.size, self.constants.size
        if values + constants > MAX_BYTES:
            raise ModelError(
                f"{self.model.label}: needs {values} bytes for values and {constants} for constants,"
                f" more than {MAX_BYTES} together; use smaller images"
            )
        if self.threads * values + constants > self.available:
            raise ModelError(
                f"{self.model.label}: needs {values} bytes for values of each of {self.threads} threads and {constants} for"
                f" constants, this process can have {self.available}; use smaller images or fewer threads"
            )

    def _scratch_bytes(self) -> int:
        widths = [t.shape[2] for t in self.model.tensors.values()]
        channels = [(pad_channels(t.shape[0]) + CLASSES) * 4 for t in self.model.tensors.values()]
        pooled = [m.output for m in self.model.nodes if isinstance(m, MaxPool)]
        rows = [pad_channels(t.shape[0]) * t.shape[2] * 4 for t in (self.model.tensors[name] for name in pooled)]
        return max(SCRATCH_BYTES, max(widths) * max(t.group for t in tiles_for(self.cpu)) * 4, *channels, *rows)

    def _layout(self, name: str) -> CodesLayout:
        """Layout of codes: word size and halo by the convolutions that read them."""
        tensor = self.model.tensors[name]
        readers = self.convolutions.get(name, [])
        channels, height, width = tensor.shape
        halo = max((p for n in readers for p in n.pads), default=0)
        sums = max((n.weight_shape[1] * n.weight_shape[2] * channels * (2**tensor.bits - 1) for n in readers), default=0)
        layouts = {"popcount": CodesLayout(channels, height, width, tensor.bits, halo, word_bits(channels, sums))}
        if tensor.bits > 1:
            layouts["dot"] = CodesLayout(8 * pad_channels(channels), height, width, 1, halo, 8, BYTES)
        if tensor.bits <= 2 and is_narrow(self.cpu) and all(self._fits_look_up(n, tensor.bits) for n in readers):
            layouts["look_up"] = CodesLayout(2 * pad_channels(channels), height, width, 1, halo, 8, FOURS)
        costs: dict[str, list[float]] = {product: [] for product in layouts}
        for n in readers:
            size = self.model.tensors[n.output].shape[1:]
            for product, layout in layouts.items():
                stored = store_cost(layout, channels) / len(readers)  # once, for all of them
                costs[product].append(codes_cost(n, layout, tensor.bits, *size, self.cpu) + stored)
            self.estimates[n.name] = Estimate(**{product: found[-1] for product, found in costs.items()})
        return layouts[min(layouts, key=lambda product: sum(costs[product]))]

    @staticmethod
    def _fits_look_up(conv: Conv, bits: int) -> bool:
        """Whether 16 bits hold a look-up tile's sum, with one value to spare for "never"."""
        _, kh, kw, c = conv.weight_shape
        return four_bound(conv.op, bits) * kh * kw * pad_channels(c) // 4 < 2**15 - 1

    def _take(self, name: str) -> None:
        tensor = self.model.tensors[name]
        if tensor.kind == "codes":
            layout = self._layout(name)
            self.codes[name] = (layout, self.arena.take_codes(layout))
        elif tensor.kind == "features":
            c, h, w = tensor.shape
            features = FeaturesLayout(pad_channels(c), h, w)
            self.features[name] = (features, self.arena.take_features(features))

    def _give(self, name: str) -> None:
        if name in self.codes:
            self.arena.give_codes(*self.codes[name])
        elif name in self.features:
            self.arena.give_features(*self.features[name])

    def _emit(self, step: Step) -> None:
        head = step.head
        row = np.zeros(f.FIELDS, np.int64)
        if step.pool is not None and step.stored is not None:
            self._pooled(step, step.stored, step.pool)
            return
        if isinstance(head, Conv):
            self._conv(row, step, head)
        elif isinstance(head, FloatConv):
            self._float_conv(row, step, head)
        elif isinstance(head, Load):
            self._load(row, head)
        elif isinstance(head, FakeQuantize | AveragePool):
            self._values(row, head)
        elif isinstance(head, Output):
            layout, at = self.features[head.source]
            row[f.OP], row[f.SRC], row[f.CHANNELS] = f.OP_OUTPUT, at, self.model.tensors[head.source].shape[0]
        elif isinstance(head, MaxPool | PadShortcut):
            self._move(row, step, head)
        elif isinstance(head, Classifier):
            self._classifier(row, head)
        else:
            row[f.OP] = f.OP_ELEMENTWISE
            row[f.SRC_KIND] = f.FROM_FEATURES
            layout, at = self.features[step.reads[0]]
            row[f.SRC], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, layout.row, layout.pixel
            row[f.VECTORS], row[f.GROUPS] = layout.channels // BLOCK, 1
            row[f.HEIGHT], row[f.WIDTH] = layout.height, layout.width
            self._epilogue(row, step, self.model.tensors[head.output].shape[0])
            self.kernels.append((head.name, f"elementwise{self._epilogue_name(step)}"))
        self.rows.append(row)
        self.names.append((head.name, ""))

    def _conv(self, row: NDArray[np.int64], step: Step, conv: Conv) -> None:
        o, kh, _, _ = conv.weight_shape
        _, height, width = self.model.tensors[conv.output].shape
        layout, at = self._image(conv) if conv.pixel_weight is not None else self.codes[conv.source]
        product = choose_product(conv, layout, self.model.tensors[conv.source].bits or 8, self.cpu)
        rows, block = product.weights[0].shape[0], 2 * BLOCK if product.pairs else BLOCK
        index, _ = cheapest_tile(product.kind, product.bits, rows, width, product.taps, block, self.cpu)
        tile = tiles_for(self.cpu)[index]
        packed = pack_weights(product.weights, tile)
        row[f.OP], row[f.TILE] = f.OP_CONV, index
        row[f.SRC] = at + layout.at(-conv.pads[0], -conv.pads[1])
        row[f.SRC_PLANE], row[f.SRC_PLANES], row[f.SRC_ROW] = product.plane, product.planes, layout.row
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = conv.strides[0] * layout.row, conv.strides[1] * layout.pixel
        row[f.KERNEL_ROWS], row[f.KERNEL_WORDS], row[f.SPAN] = kh, product.words, product.span
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.constants.add(packed), packed[0].nbytes
        row[f.GROUPS], row[f.GROUP_CHANNELS] = rows // tile.group, tile.group
        row[f.HEIGHT], row[f.WIDTH], row[f.SCRATCH] = height, width, self.scratch
        row[f.SRC_KIND] = f.FROM_PLANE_PAIRS if product.pairs else f.FROM_ACCUMULATORS
        row[f.VECTORS] = tile.group // block
        if product.table is not None:
            row[f.TABLE] = self._table(product.table)
        quantizer, name = step.quantizer, f"{product.name}, {tile}"
        if (
            product.from_zero is not None
            and quantizer is not None
            and quantizer.bits <= 2
            and self.codes[quantizer.output][0].code_bits == layout.code_bits
            and step.residual is None
            and step.stored is None
        ):
            sums = integer_levels(conv, 2 ** self.model.tensors[conv.source].bits - 1, step.relu, quantizer)
            levels = pack_levels(sums + product.from_zero, rows, tile)
            in_planes = f.MODE_ONE if quantizer.bits == 1 else f.MODE_TWO
            row[f.MODE] = in_planes if product.table is None else f.MODE_FOURS
            row[f.LIMITS], row[f.LIMITS_GROUP] = self.constants.add(levels), levels[0].nbytes
            self._codes_out(row, quantizer.output)
            self.kernels.append((conv.name, f"{name}, threshold epilogue"))
            return
        row[f.OFFSET] = self.constants.add(product.offset)
        for column, values in ((f.SCALE, conv.scale), (f.BIAS, conv.bias)):
            wide = np.zeros(pad_channels(o), np.float32)
            wide[:o] = values
            row[column] = self.constants.add(wide)
        self._epilogue(row, step, o)
        self.kernels.append((conv.name, f"{name}, float epilogue{self._epilogue_name(step)}"))

    def _table(self, table: NDArray[np.int8]) -> int:
        """Where a table of sums lies; layers share equal ones."""
        key = table.tobytes()
        if key not in self.tables:
            self.tables[key] = self.constants.add(table)
        return self.tables[key]

    def _float_conv(self, row: NDArray[np.int64], step: Step, conv: FloatConv) -> None:
        """Convolution of float32 words; groups become zeros of a dense weight."""
        o, kh, kw, c = conv.weight_shape
        _, height, width = self.model.tensors[conv.output].shape
        layout, at = self._haloed(conv)
        channels = layout.channels // 32
        weight = np.zeros((pad_channels(o), kh, kw, channels), np.float32)
        for group in range(conv.group):
            rows, columns = o // conv.group, slice(group * c, (group + 1) * c)
            part = slice(group * rows, (group + 1) * rows)
            weight[part, :, :, columns] = conv.weight[part].transpose(0, 2, 3, 1)
        index, _ = cheapest_tile("float", 32, len(weight), width, 0, cpu=self.cpu)
        tile = tiles_for(self.cpu)[index]
        packed = pack_weights([weight.reshape(len(weight), kh, -1)], tile)
        row[f.OP], row[f.TILE] = f.OP_CONV, index
        row[f.SRC], row[f.SRC_PLANES] = at + layout.at(-conv.pads[0], -conv.pads[1]), 1
        row[f.SRC_ROW] = layout.row
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = conv.strides[0] * layout.row, conv.strides[1] * layout.pixel
        row[f.KERNEL_ROWS], row[f.KERNEL_WORDS] = kh, kw * channels
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.constants.add(packed), packed[0].nbytes
        row[f.GROUPS], row[f.GROUP_CHANNELS] = len(weight) // tile.group, tile.group
        row[f.HEIGHT], row[f.WIDTH], row[f.SCRATCH] = height, width, self.scratch
        row[f.SRC_KIND], row[f.VECTORS] = f.FROM_SUMS, tile.group // BLOCK
        bias = np.zeros(pad_channels(o), np.float32)
        bias[:o] = conv.bias
        row[f.BIAS] = self.constants.add(bias)
        self._epilogue(row, step, o)
        stored = "" if conv.levels == "float" else f", {conv.levels} weights in the file"
        groups = f", {conv.group} groups as dense" if conv.group > 1 else ""
        self.kernels.append((conv.name, f"float32, {tile}, float epilogue{self._epilogue_name(step)}{stored}{groups}"))

    def _haloed(self, conv: FloatConv) -> tuple[CodesLayout, int]:
        """The features a float convolution reads, as 32-bit words; copied into a halo of zeros where it pads."""
        features, at = self.features[conv.source]
        halo = max(conv.pads)
        layout = CodesLayout(32 * features.channels, features.height, features.width, 1, halo, 32)
        if halo == 0:
            return layout, at
        target = self.arena.take_codes(layout)
        row = np.zeros(f.FIELDS, np.int64)
        row[f.OP], row[f.SRC_KIND] = f.OP_ELEMENTWISE, f.FROM_FEATURES
        row[f.SRC], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, features.row, features.pixel
        row[f.VECTORS], row[f.GROUPS] = features.channels // BLOCK, 1
        row[f.HEIGHT], row[f.WIDTH], row[f.RESIDUAL] = features.height, features.width, self.zeros
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL] = target + layout.at(0, 0), layout.row, layout.pixel
        row[f.STORE] = 1
        self.rows.append(row)
        self.names.append((f"{conv.name} input", "copy into a halo"))
        self.halos.append((layout, target))
        return layout, target

    def _load(self, row: NDArray[np.int64], node: Load) -> None:
        layout, at = self.features[node.output]
        row[f.OP], row[f.HEIGHT], row[f.WIDTH], row[f.CHANNELS] = f.OP_LOAD, layout.height, layout.width, layout.channels
        row[f.SRC_CHANNELS] = self.model.tensors[node.source].shape[0]
        row[f.FEATURES], row[f.FEATURES_ROW] = at, layout.row
        row[f.SRC_KIND] = f.FROM_FEATURES if node.mean is None else f.FROM_ACCUMULATORS
        if node.mean is not None and node.std is not None:
            row[f.MEAN], row[f.STD] = self.constants.add(node.mean), self.constants.add(node.std)
        self.kernels.append((node.name, "channels last" if node.mean is None else "normalize float32"))

    def _values(self, row: NDArray[np.int64], node: FakeQuantize | AveragePool) -> None:
        (source, at), (out, out_at) = self.features[node.source], self.features[node.output]
        row[f.SRC], row[f.SRC_ROW], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, source.row, source.row, source.pixel
        row[f.SRC_HEIGHT], row[f.SRC_WIDTH], row[f.CHANNELS] = source.height, source.width, source.channels
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.HEIGHT] = out_at, out.row, out.height
        if isinstance(node, AveragePool):
            row[f.OP] = f.OP_AVERAGE_POOL
            self.kernels.append((node.name, "mean over pixels"))
            return
        row[f.OP], row[f.QUANT] = f.OP_FAKE_QUANTIZE, f.QUANT_ONE if node.step is None else f.QUANT_DIVIDE
        row[f.LOW] = self.constants.add(np.array([node.low, node.high], np.float32))
        if node.step is not None:
            row[f.STEP] = self.constants.add(np.array([node.step], np.float32))
        self.kernels.append((node.name, "quantize and back"))

    def _image(self, conv: Conv) -> tuple[CodesLayout, int]:
        """Emit the step that interleaves the image in a halo of the zero point; a pixel is `channels` words of 8 bits."""
        channels, height, width = self.model.tensors[conv.source].shape
        layout = CodesLayout(8 * channels, height, width, 1, max(conv.pads), 8, BYTES)
        at = self.arena.reserve(layout.size + 8)
        self.arena.fills.append((at, layout.size, conv.zero_point))
        row = np.zeros(f.FIELDS, np.int64)
        row[f.OP], row[f.CHANNELS], row[f.HEIGHT], row[f.WIDTH] = f.OP_IMAGE, channels, height, width
        row[f.CODES], row[f.CODES_ROW] = at + layout.at(0, 0), layout.row
        self.rows.append(row)
        self.names.append((conv.source, "interleave channels"))
        return layout, at

    def _codes_out(self, row: NDArray[np.int64], name: str) -> None:
        layout, at = self.codes[name]
        row[f.CODES], row[f.CODES_PLANE], row[f.CODES_ROW] = at + layout.at(0, 0), layout.plane, layout.row
        row[f.CODES_PIXEL], row[f.CODES_PLANES] = layout.pixel, self.model.tensors[name].bits

    def _epilogue(self, row: NDArray[np.int64], step: Step, channels: int) -> None:
        row[f.RESIDUAL] = self.zeros
        if step.residual is not None:
            layout, at = self.features[step.residual]
            row[f.RESIDUAL], row[f.RESIDUAL_ROW], row[f.RESIDUAL_PIXEL] = at, layout.row, layout.pixel
        row[f.RELU] = int(step.relu)
        if step.stored is not None:
            layout, at = self.features[step.stored]
            row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL], row[f.STORE] = at, layout.row, layout.pixel, 1
        if step.quantizer is not None:
            self._quantizer(row, step.quantizer, channels)

    def _quantizer(self, row: NDArray[np.int64], quantizer: Quantizer, channels: int) -> None:
        self._codes_out(row, quantizer.output)
        code_bits = self.codes[quantizer.output][0].code_bits
        if quantizer.bits > 2 or code_bits == BYTES:
            row[f.QUANT] = f.QUANT_BYTES if code_bits == BYTES else f.QUANT_DIVIDE
            row[f.STEP] = self.constants.add(np.array([quantizer.step], np.float32))
            return
        if code_bits == FOURS:
            row[f.QUANT] = f.QUANT_FOURS
        else:
            row[f.QUANT] = f.QUANT_ONE if quantizer.bits == 1 else f.QUANT_TWO
        reached = float_levels(quantizer)
        levels = np.full((3 if code_bits == FOURS else len(reached), pad_channels(channels)), np.nan, np.float32)
        levels[: len(reached), :channels] = np.array(reached)[:, None]
        row[f.LEVELS], row[f.LEVELS_STRIDE] = self.constants.add(levels), levels[0].nbytes

    def _epilogue_name(self, step: Step) -> str:
        parts = [
            " + residual" if step.residual is not None else "",
            " + relu" if step.relu else "",
            f" + {step.quantizer.bits}b codes" if step.quantizer is not None else "",
            " + store" if step.stored is not None else "",
        ]
        return "".join(parts)

    def _pooled(self, step: Step, stored: str, pool: Step) -> None:
        """A convolution and the max pool that alone reads it: in bands of rows, where that takes less than the features."""
        node = pool.head
        assert isinstance(node, MaxPool)
        c, h, w = self.model.tensors[stored].shape
        whole = FeaturesLayout(pad_channels(c), h, w)
        stride, size = node.strides[0], node.kernel[0]
        band = max(1, (BAND_BYTES // whole.row - size) // stride + 1)
        rows = (band - 1) * stride + size  # of the convolution that a band reads
        layout = replace(whole, height=rows * self.threads) if rows * self.threads < h else whole
        at = self.arena.take_features(layout)
        self.features[stored] = (whole, at)
        self._emit(replace(step, pool=None))
        first = len(self.rows) - 1
        self._emit(pool)
        made, taken = self.rows[first : first + 2]
        if layout is not whole:
            made[f.BAND], taken[f.BAND] = band, -1
        if made[f.SRC_KIND] == f.FROM_ACCUMULATORS:
            made[f.MODE], taken[f.SRC_KIND] = f.MODE_POOL, f.FROM_ACCUMULATORS
            for column in (f.OFFSET, f.SCALE, f.BIAS, f.RELU):
                taken[column] = made[column]
        del self.features[stored]
        self.arena.give_features(layout, at)

    def _move(self, row: NDArray[np.int64], step: Step, node: MaxPool | PadShortcut) -> None:
        source, at = self.features[node.source]
        c, height, width = self.model.tensors[node.output].shape
        row[f.HEIGHT], row[f.WIDTH], row[f.CHANNELS] = height, width, pad_channels(c)
        row[f.SRC] = at
        if isinstance(node, MaxPool):
            row[f.OP], row[f.SRC_ROW], row[f.SRC_STEP_X] = f.OP_MAX_POOL, source.row, source.pixel
            row[f.SRC_HEIGHT], row[f.SRC_WIDTH], row[f.SCRATCH] = source.height, source.width, self.scratch
            row[f.SRC_KIND], row[f.VECTORS], row[f.GROUPS] = f.FROM_FEATURES, pad_channels(c) // BLOCK, 1
            self._epilogue(row, step, c)
            row[f.KERNEL_ROWS], row[f.KERNEL_WIDTH] = node.kernel
            row[f.STRIDE_Y], row[f.STRIDE_X] = node.strides
            row[f.PAD_TOP], row[f.PAD_LEFT] = node.pads[:2]
            self.kernels.append((node.name, f"max pool{self._epilogue_name(step)}"))
            return
        out, out_at = self.features[node.output]
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL] = out_at, out.row, out.pixel
        row[f.OP], row[f.PAD_LEFT] = f.OP_PAD_SHORTCUT, node.front
        row[f.SRC_CHANNELS] = self.model.tensors[node.source].shape[0]
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = node.steps[0] * source.row, node.steps[1] * source.pixel
        self.kernels.append((node.name, "subsample and pad"))

    def _classifier(self, row: NDArray[np.int64], node: Classifier) -> None:
        layout, at = self.features[node.source]
        classes, channels = node.weight.shape
        block = CLASSES if classes > BLOCK else BLOCK
        groups = -(-classes // block)
        integers = np.zeros((groups * block, layout.channels), np.float32 if node.integers is None else np.int8)
        integers[:classes, :channels] = node.weight if node.integers is None else node.integers
        packed = integers.reshape(groups, block, -1).transpose(0, 2, 1)
        bias, unit = np.zeros((2, groups * block), np.float32)
        bias[:classes] = node.bias
        row[f.OP], row[f.SRC], row[f.SRC_ROW], row[f.SRC_STEP_X] = f.OP_CLASSIFIER, at, layout.row, layout.pixel
        row[f.SRC_HEIGHT], row[f.SRC_WIDTH] = layout.height, layout.width
        row[f.CHANNELS], row[f.WIDTH], row[f.SCRATCH] = layout.channels, classes, self.scratch
        row[f.GROUPS], row[f.VECTORS] = groups, block // BLOCK
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.constants.add(packed), packed[0].nbytes
        row[f.BIAS] = self.constants.add(bias)
        if node.unit is not None:
            unit[:classes] = node.unit
            row[f.MODE], row[f.SCALE] = f.WEIGHTS_INT8, self.constants.add(unit)
        self.kernels.append((node.name, "mean and dense float32" + (", int8 weights" if node.unit is not None else "")))
