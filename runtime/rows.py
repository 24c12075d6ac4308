"""Rows of a plan's table: for every step its tile, its packed constants, and where it reads and writes (`kernels.fields`)."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.arena import BYTES, FOURS, CodesLayout, FeaturesLayout
from bitplane.runtime.cost import cheapest_tile
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.shapes import tiles_for
from bitplane.runtime.lower import Step
from bitplane.runtime.model import (
    AveragePool,
    Classifier,
    Conv,
    FakeQuantize,
    FloatConv,
    Load,
    MaxPool,
    Output,
    PadShortcut,
    Quantizer,
)
from bitplane.runtime.packing import BLOCK, float_levels, integer_levels, pack_levels, pack_weights, pad_channels
from bitplane.runtime.places import CLASSES, Places
from bitplane.runtime.products import choose_product

BAND_BYTES = 192 << 10
"""Bytes of features that a convolution leaves to a max pool at a time: a part of a second cache."""


@dataclass
class Rows:
    """The table of a plan as it is made.

    Attributes:
        places: where values lie; constants are added to them.
        rows: int64 [FIELDS] each.
        names: of rows: the node, and what runs it if it is no layer's.
        kernels: (layer name, what runs it), in order.
    """

    places: Places
    rows: list[NDArray[np.int64]] = field(default_factory=list[NDArray[np.int64]])
    names: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    kernels: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def __post_init__(self) -> None:
        self._halos: list[tuple[CodesLayout, int]] = []
        self._tables: dict[bytes, int] = {}  # of sums: where in the constants

    def add(self, step: Step) -> None:
        """Write the rows of a step whose tensors have their places."""
        self._emit(step)
        while self._halos:
            self.places.arena.give_codes(*self._halos.pop())

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
            layout, at = self.places.features[head.source]
            row[f.OP], row[f.SRC], row[f.CHANNELS] = f.OP_OUTPUT, at, self.places.model.tensors[head.source].shape[0]
        elif isinstance(head, MaxPool | PadShortcut):
            self._move(row, step, head)
        elif isinstance(head, Classifier):
            self._classifier(row, head)
        else:
            row[f.OP] = f.OP_ELEMENTWISE
            row[f.SRC_KIND] = f.FROM_FEATURES
            layout, at = self.places.features[step.reads[0]]
            row[f.SRC], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, layout.row, layout.pixel
            row[f.VECTORS], row[f.GROUPS] = layout.channels // BLOCK, 1
            row[f.HEIGHT], row[f.WIDTH] = layout.height, layout.width
            self._epilogue(row, step, self.places.model.tensors[head.output].shape[0])
            self.kernels.append((head.name, f"elementwise{self._epilogue_name(step)}"))
        self.rows.append(row)
        self.names.append((head.name, ""))

    def _conv(self, row: NDArray[np.int64], step: Step, conv: Conv) -> None:
        o, kh, _, _ = conv.weight_shape
        _, height, width = self.places.model.tensors[conv.output].shape
        layout, at = self._image(conv) if conv.pixel_weight is not None else self.places.codes[conv.source]
        product = choose_product(conv, layout, self.places.model.tensors[conv.source].bits or 8, self.places.cpu)
        rows, block = product.weights[0].shape[0], 2 * BLOCK if product.pairs else BLOCK
        index, _ = cheapest_tile(product.kind, product.bits, rows, width, product.taps, block, self.places.cpu)
        tile = tiles_for(self.places.cpu)[index]
        packed = pack_weights(product.weights, tile)
        row[f.OP], row[f.TILE] = f.OP_CONV, index
        row[f.SRC] = at + layout.at(-conv.pads[0], -conv.pads[1])
        row[f.SRC_PLANE], row[f.SRC_PLANES], row[f.SRC_ROW] = product.plane, product.planes, layout.row
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = conv.strides[0] * layout.row, conv.strides[1] * layout.pixel
        row[f.KERNEL_ROWS], row[f.KERNEL_WORDS], row[f.SPAN] = kh, product.words, product.span
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.places.constants.add(packed), packed[0].nbytes
        row[f.GROUPS], row[f.GROUP_CHANNELS] = rows // tile.group, tile.group
        row[f.HEIGHT], row[f.WIDTH], row[f.SCRATCH] = height, width, self.places.scratch
        row[f.SRC_KIND] = f.FROM_PLANE_PAIRS if product.pairs else f.FROM_ACCUMULATORS
        row[f.VECTORS] = tile.group // block
        if product.table is not None:
            row[f.TABLE] = self._table(product.table)
        quantizer, name = step.quantizer, f"{product.name}, {tile}"
        if (
            product.from_zero is not None
            and quantizer is not None
            and quantizer.bits <= 2
            and self.places.codes[quantizer.output][0].code_bits == layout.code_bits
            and step.residual is None
            and step.slope is None
            and step.stored is None
        ):
            sums = integer_levels(conv, 2 ** self.places.model.tensors[conv.source].bits - 1, step.relu, quantizer)
            levels = pack_levels(sums + product.from_zero, rows, tile)
            in_planes = f.MODE_ONE if quantizer.bits == 1 else f.MODE_TWO
            row[f.MODE] = in_planes if product.table is None else f.MODE_FOURS
            row[f.LIMITS], row[f.LIMITS_GROUP] = self.places.constants.add(levels), levels[0].nbytes
            self._codes_out(row, quantizer.output)
            self.kernels.append((conv.name, f"{name}, threshold epilogue"))
            return
        row[f.OFFSET] = self.places.constants.add(product.offset)
        for column, values in ((f.SCALE, conv.scale), (f.BIAS, conv.bias)):
            wide = np.zeros(pad_channels(o), np.float32)
            wide[:o] = values
            row[column] = self.places.constants.add(wide)
        self._epilogue(row, step, o)
        self.kernels.append((conv.name, f"{name}, float epilogue{self._epilogue_name(step)}"))

    def _table(self, table: NDArray[np.int8]) -> int:
        """Where a table of sums lies; layers share equal ones."""
        key = table.tobytes()
        if key not in self._tables:
            self._tables[key] = self.places.constants.add(table)
        return self._tables[key]

    def _float_conv(self, row: NDArray[np.int64], step: Step, conv: FloatConv) -> None:
        """Convolution of float32 words; groups become zeros of a dense weight."""
        o, kh, kw, c = conv.weight_shape
        _, height, width = self.places.model.tensors[conv.output].shape
        layout, at = self._haloed(conv)
        channels = layout.channels // 32
        weight = np.zeros((pad_channels(o), kh, kw, channels), np.float32)
        for group in range(conv.group):
            rows, columns = o // conv.group, slice(group * c, (group + 1) * c)
            part = slice(group * rows, (group + 1) * rows)
            weight[part, :, :, columns] = conv.weight[part].transpose(0, 2, 3, 1)
        index, _ = cheapest_tile("float", 32, len(weight), width, 0, cpu=self.places.cpu)
        tile = tiles_for(self.places.cpu)[index]
        packed = pack_weights([weight.reshape(len(weight), kh, -1)], tile)
        row[f.OP], row[f.TILE] = f.OP_CONV, index
        row[f.SRC], row[f.SRC_PLANES] = at + layout.at(-conv.pads[0], -conv.pads[1]), 1
        row[f.SRC_ROW] = layout.row
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = conv.strides[0] * layout.row, conv.strides[1] * layout.pixel
        row[f.KERNEL_ROWS], row[f.KERNEL_WORDS] = kh, kw * channels
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.places.constants.add(packed), packed[0].nbytes
        row[f.GROUPS], row[f.GROUP_CHANNELS] = len(weight) // tile.group, tile.group
        row[f.HEIGHT], row[f.WIDTH], row[f.SCRATCH] = height, width, self.places.scratch
        row[f.SRC_KIND], row[f.VECTORS] = f.FROM_SUMS, tile.group // BLOCK
        bias = np.zeros(pad_channels(o), np.float32)
        bias[:o] = conv.bias
        row[f.BIAS] = self.places.constants.add(bias)
        self._epilogue(row, step, o)
        stored = "" if conv.levels == "float" else f", {conv.levels} weights in the file"
        groups = f", {conv.group} groups as dense" if conv.group > 1 else ""
        self.kernels.append((conv.name, f"float32, {tile}, float epilogue{self._epilogue_name(step)}{stored}{groups}"))

    def _haloed(self, conv: FloatConv) -> tuple[CodesLayout, int]:
        """The features a float convolution reads, as 32-bit words; copied into a halo of zeros where it pads."""
        features, at = self.places.features[conv.source]
        halo = max(conv.pads)
        layout = CodesLayout(32 * features.channels, features.height, features.width, 1, halo, 32)
        if halo == 0:
            return layout, at
        target = self.places.arena.take_codes(layout)
        row = np.zeros(f.FIELDS, np.int64)
        row[f.OP], row[f.SRC_KIND] = f.OP_ELEMENTWISE, f.FROM_FEATURES
        row[f.SRC], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, features.row, features.pixel
        row[f.VECTORS], row[f.GROUPS] = features.channels // BLOCK, 1
        row[f.HEIGHT], row[f.WIDTH], row[f.RESIDUAL] = features.height, features.width, self.places.zeros
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL] = target + layout.at(0, 0), layout.row, layout.pixel
        row[f.STORE] = 1
        self.rows.append(row)
        self.names.append((f"{conv.name} input", "copy into a halo"))
        self._halos.append((layout, target))
        return layout, target

    def _load(self, row: NDArray[np.int64], node: Load) -> None:
        layout, at = self.places.features[node.output]
        row[f.OP], row[f.HEIGHT], row[f.WIDTH], row[f.CHANNELS] = f.OP_LOAD, layout.height, layout.width, layout.channels
        row[f.SRC_CHANNELS] = self.places.model.tensors[node.source].shape[0]
        row[f.FEATURES], row[f.FEATURES_ROW] = at, layout.row
        row[f.SRC_KIND] = f.FROM_FEATURES if node.mean is None else f.FROM_ACCUMULATORS
        if node.mean is not None and node.std is not None:
            row[f.MEAN], row[f.STD] = self.places.constants.add(node.mean), self.places.constants.add(node.std)
        self.kernels.append((node.name, "channels last" if node.mean is None else "normalize float32"))

    def _values(self, row: NDArray[np.int64], node: FakeQuantize | AveragePool) -> None:
        (source, at), (out, out_at) = self.places.features[node.source], self.places.features[node.output]
        row[f.SRC], row[f.SRC_ROW], row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = at, source.row, source.row, source.pixel
        row[f.SRC_HEIGHT], row[f.SRC_WIDTH], row[f.CHANNELS] = source.height, source.width, source.channels
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.HEIGHT] = out_at, out.row, out.height
        if isinstance(node, AveragePool):
            row[f.OP] = f.OP_AVERAGE_POOL
            self.kernels.append((node.name, "mean over pixels"))
            return
        row[f.OP], row[f.QUANT] = f.OP_FAKE_QUANTIZE, f.QUANT_ONE if node.step is None else f.QUANT_DIVIDE
        row[f.LOW] = self.places.constants.add(np.array([node.low, node.high], np.float32))
        if node.step is not None:
            row[f.STEP] = self.places.constants.add(np.array([node.step], np.float32))
        self.kernels.append((node.name, "quantize and back"))

    def _image(self, conv: Conv) -> tuple[CodesLayout, int]:
        """Emit the step that interleaves the image in a halo of the zero point; a pixel is `channels` words of 8 bits."""
        channels, height, width = self.places.model.tensors[conv.source].shape
        layout = CodesLayout(8 * channels, height, width, 1, max(conv.pads), 8, BYTES)
        at = self.places.arena.reserve(layout.size + 8)
        self.places.arena.fills.append((at, layout.size, conv.zero_point))
        row = np.zeros(f.FIELDS, np.int64)
        row[f.OP], row[f.CHANNELS], row[f.HEIGHT], row[f.WIDTH] = f.OP_IMAGE, channels, height, width
        row[f.CODES], row[f.CODES_ROW] = at + layout.at(0, 0), layout.row
        self.rows.append(row)
        self.names.append((conv.source, "interleave channels"))
        return layout, at

    def _codes_out(self, row: NDArray[np.int64], name: str) -> None:
        layout, at = self.places.codes[name]
        row[f.CODES], row[f.CODES_PLANE], row[f.CODES_ROW] = at + layout.at(0, 0), layout.plane, layout.row
        row[f.CODES_PIXEL], row[f.CODES_PLANES] = layout.pixel, self.places.model.tensors[name].bits

    def _epilogue(self, row: NDArray[np.int64], step: Step, channels: int) -> None:
        row[f.RESIDUAL] = self.places.zeros
        if step.residual is not None:
            layout, at = self.places.features[step.residual]
            row[f.RESIDUAL], row[f.RESIDUAL_ROW], row[f.RESIDUAL_PIXEL] = at, layout.row, layout.pixel
        row[f.RELU] = int(step.relu)
        if step.slope is not None:
            slope = np.zeros(pad_channels(channels), np.float32)
            slope[:channels] = step.slope
            row[f.PRELU], row[f.SLOPE] = 1, self.places.constants.add(slope)
        if step.stored is not None:
            layout, at = self.places.features[step.stored]
            row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL], row[f.STORE] = at, layout.row, layout.pixel, 1
        if step.quantizer is not None:
            self._quantizer(row, step.quantizer, channels)

    def _quantizer(self, row: NDArray[np.int64], quantizer: Quantizer, channels: int) -> None:
        self._codes_out(row, quantizer.output)
        code_bits = self.places.codes[quantizer.output][0].code_bits
        if quantizer.bits > 2 or code_bits == BYTES:
            row[f.QUANT] = f.QUANT_BYTES if code_bits == BYTES else f.QUANT_DIVIDE
            row[f.STEP] = self.places.constants.add(np.array([quantizer.step], np.float32))
            return
        if code_bits == FOURS:
            row[f.QUANT] = f.QUANT_FOURS
        else:
            row[f.QUANT] = f.QUANT_ONE if quantizer.bits == 1 else f.QUANT_TWO
        reached = float_levels(quantizer)
        levels = np.full((3 if code_bits == FOURS else len(reached), pad_channels(channels)), np.nan, np.float32)
        for level, values in zip(levels, reached, strict=False):  # missing levels stay NaN: never reached
            level[:channels] = values
        row[f.LEVELS], row[f.LEVELS_STRIDE] = self.places.constants.add(levels), levels[0].nbytes

    def _epilogue_name(self, step: Step) -> str:
        parts = [
            " + residual" if step.residual is not None else "",
            " + relu" if step.relu else "",
            " + prelu" if step.slope is not None else "",
            f" + {step.quantizer.bits}b codes" if step.quantizer is not None else "",
            " + store" if step.stored is not None else "",
        ]
        return "".join(parts)

    def _pooled(self, step: Step, stored: str, pool: Step) -> None:
        """A convolution and the max pool that alone reads it: in bands of rows, where that takes less than the features."""
        node = pool.head
        assert isinstance(node, MaxPool)
        c, h, w = self.places.model.tensors[stored].shape
        whole = FeaturesLayout(pad_channels(c), h, w)
        stride, size = node.strides[0], node.kernel[0]
        band = max(1, (BAND_BYTES // whole.row - size) // stride + 1)
        rows = (band - 1) * stride + size  # of the convolution that a band reads
        layout = replace(whole, height=rows * self.places.threads) if rows * self.places.threads < h else whole
        at = self.places.arena.take_features(layout)
        self.places.features[stored] = (whole, at)
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
        del self.places.features[stored]
        self.places.arena.give_features(layout, at)

    def _move(self, row: NDArray[np.int64], step: Step, node: MaxPool | PadShortcut) -> None:
        source, at = self.places.features[node.source]
        c, height, width = self.places.model.tensors[node.output].shape
        row[f.HEIGHT], row[f.WIDTH], row[f.CHANNELS] = height, width, pad_channels(c)
        row[f.SRC] = at
        if isinstance(node, MaxPool):
            row[f.OP], row[f.SRC_ROW], row[f.SRC_STEP_X] = f.OP_MAX_POOL, source.row, source.pixel
            row[f.SRC_HEIGHT], row[f.SRC_WIDTH], row[f.SCRATCH] = source.height, source.width, self.places.scratch
            row[f.SRC_KIND], row[f.VECTORS], row[f.GROUPS] = f.FROM_FEATURES, pad_channels(c) // BLOCK, 1
            self._epilogue(row, step, c)
            row[f.KERNEL_ROWS], row[f.KERNEL_WIDTH] = node.kernel
            row[f.STRIDE_Y], row[f.STRIDE_X] = node.strides
            row[f.PAD_TOP], row[f.PAD_LEFT] = node.pads[:2]
            self.kernels.append((node.name, f"max pool{self._epilogue_name(step)}"))
            return
        out, out_at = self.places.features[node.output]
        row[f.FEATURES], row[f.FEATURES_ROW], row[f.FEATURES_PIXEL] = out_at, out.row, out.pixel
        row[f.OP], row[f.PAD_LEFT] = f.OP_PAD_SHORTCUT, node.front
        row[f.SRC_CHANNELS] = self.places.model.tensors[node.source].shape[0]
        row[f.SRC_STEP_Y], row[f.SRC_STEP_X] = node.steps[0] * source.row, node.steps[1] * source.pixel
        self.kernels.append((node.name, "subsample and pad"))

    def _classifier(self, row: NDArray[np.int64], node: Classifier) -> None:
        layout, at = self.places.features[node.source]
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
        row[f.CHANNELS], row[f.WIDTH], row[f.SCRATCH] = layout.channels, classes, self.places.scratch
        row[f.GROUPS], row[f.VECTORS] = groups, block // BLOCK
        row[f.WEIGHTS], row[f.WEIGHTS_GROUP] = self.places.constants.add(packed), packed[0].nbytes
        row[f.BIAS] = self.places.constants.add(bias)
        if node.unit is not None:
            unit[:classes] = node.unit
            row[f.MODE], row[f.SCALE] = f.WEIGHTS_INT8, self.places.constants.add(unit)
        self.kernels.append((node.name, "mean and dense float32" + (", int8 weights" if node.unit is not None else "")))
