"""The packed file: operators of domain `bitplane` on integer codes and planes wherever a convolution reads codes.

How each convolution is written, first rule that fits (`FORMAT.md` has the operators):

    reads pixels, int8 weight in [-64, 64]          PixelConv
    reads codes, low-bit weight                     BinaryConv, TernaryConv, QuaternaryConv
    low-bit weight on anything else                 Conv on BinaryWeight, TernaryWeight, QuaternaryWeight: planes in the file,
    float products int8 weight                                     Conv or Gemm on Int8Weight
    float weight                                    Conv or Gemm
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bitplane.export.builder import GraphBuilder, channel_pads, scalar
from bitplane.export.errors import ExportError
from bitplane.export.fold import FoldedConv, fold_codes
from bitplane.export.network import (
    Add,
    Affine,
    Conv,
    Flatten,
    Float64,
    GlobalAveragePool,
    Kept,
    MaxPool,
    Network,
    Node,
    Normalize,
    PadShortcut,
    PRelu,
    Quantize,
    Relu,
    Sign,
)
from bitplane.format import names as fmt
from bitplane.format.levels import LEVEL_SETS
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.format.pack import pack_weight


@dataclass(frozen=True)
class Written:
    """How a convolution was written: its operator, and why it computes in floating point ("" if it does not)."""

    operator: str
    reason: str = ""


def write_packed(network: Network) -> tuple[ModelProto, dict[str, Written]]:
    """Write a network as a packed file, without metadata.

    Args:
        network: from `quantize`.

    Returns:
        The model, and how every convolution was written.

    Raises:
        ExportError: a factor is not finite in float32.
    """
    writer = _Writer(network)
    for node in network.nodes:
        writer.write(node)
    return writer.builder.model(network), writer.written


def integer_route(network: Network, conv: Conv) -> str:
    """Why a convolution cannot run on integers; "" if it can."""
    source = network.producers().get(conv.source)
    w = conv.weight
    if isinstance(source, Normalize):
        if w.levels != "int8" or w.integers is None or np.abs(w.integers).max() > PIXEL_WEIGHT_LIMIT or conv.group != 1:
            return "its weights are float" if w.integers is None else "its weights do not fit the pixel convolution"
        mean = source.mean
        whole = (mean == mean[0]).all() and float(mean[0]).is_integer() and 0 <= mean[0] <= 255 and (source.std == 1).all()
        return "" if whole else "the channels are normalized differently"
    if w.levels not in LEVEL_SETS:
        return "its weights are float" if w.integers is None else "its weights have 8 bits"
    if conv.group != 1:
        return "it is grouped"
    if isinstance(source, Sign):
        padded = any(conv.pads) and conv.pad_value != -source.scale
        return f"it pads 1-bit activations with {conv.pad_value:g}" if padded else ""
    if isinstance(source, Quantize):
        if source.low != 0 or source.high not in fmt.CODE_TOPS:
            return f"activation codes {source.low} to {source.high} have no bit-planes"
        return "" if conv.pad_value == 0 or not any(conv.pads) else f"it pads with {conv.pad_value:g}"
    return "it reads float activations"


@dataclass
class _Writer:
    network: Network
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    written: dict[str, Written] = field(default_factory=dict[str, Written])

    def __post_init__(self) -> None:
        self.producers, self.readers = self.network.producers(), self.network.readers()
        self.codes: dict[str, str] = {}
        self.values: dict[str, str] = {}  # name in the file of the features of quantizers

    def write(self, node: Node) -> None:
        """Append the node."""
        b = self.builder
        match node:
            case Normalize():
                on_pixels = [n for n in self.readers[node.name] if isinstance(n, Conv) and not integer_route(self.network, n)]
                if len(on_pixels) < len(self.readers[node.name]):
                    b.names[node.name] = self._normalize(node)
            case Conv():
                b.names[node.name] = self._conv(node)
            case Quantize() | Sign():
                self._quantizer(node)
            case Relu():
                b.names[node.name] = b.node("Relu", node.name, [b.names[node.source]])
            case PRelu():
                slope = b.channels(f"{node.name}.slope", node.slope)
                b.names[node.name] = b.node("PRelu", node.name, [b.names[node.source], slope])
            case Add():
                b.names[node.name] = b.node("Add", node.name, [b.names[node.source], b.names[node.other]])
            case MaxPool():
                b.names[node.name] = b.max_pool(node, b.names[node.source])
            case GlobalAveragePool():
                b.names[node.name] = b.node("GlobalAveragePool", node.name, [b.names[node.source]])
            case PadShortcut():
                b.names[node.name] = b.node(
                    fmt.PAD_SHORTCUT,
                    node.name,
                    [b.names[node.source]],
                    fmt.DOMAIN,
                    steps=list(node.steps),
                    pads=channel_pads(node),
                )
            case Flatten():
                b.names[node.name] = (
                    b.names[node.source] if self._is_gemm(node.source) else b.flatten(node, b.names[node.source])
                )
            case Kept():
                b.names[node.name] = b.keep(node)
            case Affine():
                raise ExportError(f"{node.name}: an affine map is left unfolded; please report this defect")

    def _normalize(self, node: Normalize) -> str:
        b = self.builder
        factors = (
            b.constant(f"{node.name}.{k}", v.astype(np.float32).reshape(-1, 1, 1))
            for k, v in (("mean", node.mean), ("std", node.std))
        )
        return b.node(fmt.NORMALIZE, node.name, [b.names[node.source], *factors], fmt.DOMAIN)

    def _quantizer(self, node: Quantize | Sign) -> None:
        """Codes for the convolutions that run on integers, the same as features for everything else."""
        b, source = self.builder, self.builder.names[node.source]
        readers = self.readers[node.name]
        coded = [n for n in readers if isinstance(n, Conv) and not integer_route(self.network, n)]
        if isinstance(node, Sign) and node.thresholds is not None:
            thresholds = b.channels(f"{node.name}.thresholds", node.thresholds)
            if coded:
                self.codes[node.name] = b.node(fmt.CHANNEL_SIGN, node.name, [source, thresholds], fmt.DOMAIN)
        elif coded and isinstance(node, Sign):
            self.codes[node.name] = b.node(fmt.SIGN, node.name, [source], fmt.DOMAIN)
        elif coded and isinstance(node, Quantize):
            step = b.constant(f"{node.name}.step", scalar(node.step))
            self.codes[node.name] = b.node(fmt.QUANTIZE, node.name, [source, step], fmt.DOMAIN, top=[node.high])
        if len(coded) == len(readers) and node.name != self.network.output:
            return
        name = f"{node.name}.value" if coded else node.name
        if isinstance(node, Sign):
            if node.thresholds is not None:
                source = self._lowered(node, node.thresholds, source)
            scale = b.constant(f"{node.name}.scale", scalar(node.scale))
            b.names[node.name] = b.node(fmt.BIPOLAR, name, [source, scale], fmt.DOMAIN)
        else:
            step = b.constant(f"{node.name}.step", scalar(node.step))
            limits = [node.low, node.high]
            b.names[node.name] = b.node(fmt.FAKE_QUANTIZE, name, [source, step], fmt.DOMAIN, limits=limits)

    def _lowered(self, node: Sign, thresholds: Float64, source: str) -> str:
        """X - thresholds, which is at least 0 where x reaches them, rounding included: a convolution of one group a channel."""
        b, count = self.builder, len(thresholds)
        ones = b.constant(f"{node.name}.ones", np.ones((count, 1, 1, 1), np.float32))
        bias = b.constant(f"{node.name}.offset", -thresholds.astype(np.float32))
        return b.node(
            "Conv",
            f"{node.name}.lowered",
            [source, ones, bias],
            dilations=[1, 1],
            group=count,
            kernel_shape=[1, 1],
            pads=[0, 0, 0, 0],
            strides=[1, 1],
        )

    def _conv(self, conv: Conv) -> str:
        reason = integer_route(self.network, conv)
        if reason:
            return self._float_conv(conv, reason)
        source = self.producers[conv.source]
        folded = fold_codes(conv, source if isinstance(source, Quantize | Sign) else None)
        if isinstance(source, Normalize):
            return self._pixel_conv(conv, folded, int(source.mean[0]))
        return self._low_bit_conv(conv, folded)

    def _pixel_conv(self, conv: Conv, folded: FoldedConv, zero_point: int) -> str:
        b = self.builder
        inputs = [
            fmt.INPUT_NAME,
            b.constant(f"{conv.name}.weight", folded.weight),
            b.constant(f"{conv.name}.zero_point", np.asarray(zero_point, np.uint8)),
            *self._epilogue(conv.name, folded),
        ]
        self.written[conv.name] = Written(fmt.PIXEL_CONV)
        return b.node(fmt.PIXEL_CONV, conv.name, inputs, fmt.DOMAIN, strides=list(conv.strides), pads=list(conv.pads))

    def _low_bit_conv(self, conv: Conv, folded: FoldedConv) -> str:
        b, operator = self.builder, fmt.LOW_BIT_CONV[conv.weight.levels]
        planes = pack_weight(folded.weight, LEVEL_SETS[conv.weight.levels])
        inputs = [
            self.codes[conv.source],
            *(b.constant(f"{conv.name}.{p}", plane) for p, plane in planes.items()),
            *self._epilogue(conv.name, folded),
        ]
        o, c, kh, kw = conv.weight.shape
        self.written[conv.name] = Written(operator)
        return b.node(
            operator,
            conv.name,
            inputs,
            fmt.DOMAIN,
            weight_shape=[o, kh, kw, c],
            strides=list(conv.strides),
            pads=list(conv.pads),
        )

    def _float_conv(self, conv: Conv, reason: str) -> str:
        b, value = self.builder, self.builder.names[conv.source]
        if not np.isfinite(conv.bias.astype(np.float32)).all() or not np.isfinite(conv.weight.values.astype(np.float32)).all():
            raise ExportError(f"{conv.name}: a weight or bias is not finite in float32; the training has diverged")
        if any(conv.pads) and conv.pad_value != 0:
            top, left, bottom, right = conv.pads
            pads = b.constant(f"{conv.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
            fill = b.constant(f"{conv.name}.pad_value", scalar(conv.pad_value))
            value = b.node("Pad", f"{conv.name}.pad", [value, pads, fill])
        own_pads = [0, 0, 0, 0] if conv.pad_value != 0 else list(conv.pads)
        gemm = self._is_gemm(conv.name)
        weight = self._float_weight(conv, gemm)
        bias = b.constant(f"{conv.name}.bias", conv.bias.astype(np.float32))
        if gemm:
            self.written[conv.name] = Written("Gemm", reason)
            value = b.node("Flatten", f"{conv.name}.input", [value], axis=1)
            return b.node("Gemm", conv.name, [value, weight, bias], transB=1)
        self.written[conv.name] = Written("Conv", reason)
        kernel = list(conv.weight.shape[2:])
        return b.node(
            "Conv",
            conv.name,
            [value, weight, bias],
            dilations=[1, 1],
            group=conv.group,
            kernel_shape=kernel,
            pads=own_pads,
            strides=list(conv.strides),
        )

    def _is_gemm(self, name: str) -> bool:
        """Whether a fully connected layer on single pixels ends the network: then it is written as `Gemm`."""
        conv, readers = self.producers.get(name), self.readers.get(name, [])
        return (
            isinstance(conv, Conv)
            and conv.dense
            and conv.weight.shape[2:] == (1, 1)
            and conv.weight.levels not in LEVEL_SETS
            and bool(integer_route(self.network, conv))
            and len(readers) == 1
            and isinstance(readers[0], Flatten)
            and self.network.output == readers[0].name
        )

    def _float_weight(self, conv: Conv, gemm: bool) -> str:
        """The weight as a float32 value: an initializer, or what a node makes of integers."""
        b, w = self.builder, conv.weight
        if w.integers is None or w.unit is None:
            values = w.values.astype(np.float32)
            return b.constant(f"{conv.name}.weight", values[:, :, 0, 0] if gemm else values)
        unit = w.unit.astype(np.float32)
        if w.levels in LEVEL_SETS:
            planes = pack_weight(
                np.where(unit[:, None, None, None] < 0, -w.integers, w.integers).astype(np.int8), LEVEL_SETS[w.levels]
            )
            inputs = [b.constant(f"{conv.name}.{p}", plane) for p, plane in planes.items()]
            inputs.append(b.constant(f"{conv.name}.unit", np.abs(unit).reshape(-1, 1, 1, 1)))
            o, c, kh, kw = w.shape
            return b.node(fmt.LOW_BIT_WEIGHT[w.levels], f"{conv.name}.weight", inputs, fmt.DOMAIN, weight_shape=[o, kh, kw, c])
        integers: NDArray[np.int8] = w.integers[:, :, 0, 0] if gemm else w.integers
        unit = unit.reshape(-1, *[1] * (integers.ndim - 1))
        inputs = [b.constant(f"{conv.name}.integers", integers), b.constant(f"{conv.name}.unit", unit)]
        return b.node(fmt.INT8_WEIGHT, f"{conv.name}.weight", inputs, fmt.DOMAIN)

    def _epilogue(self, name: str, folded: FoldedConv) -> list[str]:
        b = self.builder
        return [b.constant(f"{name}.scale", folded.scale), b.constant(f"{name}.bias", folded.bias)]
