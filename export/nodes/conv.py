"""Conv: a convolution with bias, or a fully connected layer as one over its whole input.

How the packed form holds it, first rule that fits (`FORMAT.md` has the operators):

    reads pixels, int8 weight in [-64, 64]          PixelConv
    reads codes, low-bit weight                     BinaryConv, TernaryConv, QuaternaryConv, FourLevelConv
    low-bit weight on anything else                 Conv on BinaryWeight, TernaryWeight, QuaternaryWeight, FourLevelWeight:
                                                    planes in the file, float products
    int8 weight                                     Conv or Gemm on Int8Weight
    float weight                                    Conv or Gemm
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitplane.export.errors import ExportError
from bitplane.export.graph import GraphBuilder, Written
from bitplane.export.network import Float64, Node, Shape, Unary, window
from bitplane.export.nodes.epilogue import fold_codes
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.sign import Sign
from bitplane.export.nodes.weight import Weight
from bitplane.format import names as fmt
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.format.pack import pack_weight


@dataclass(frozen=True)
class Conv(Unary):
    """A convolution with bias, or a fully connected layer as one over its whole input.

    Attributes:
        name: name of the layer and of its value.
        source: what it reads.
        weight: its weight.
        bias: float64 [O].
        strides: (y, x).
        pads: (top, left, bottom, right).
        group: groups of channels.
        pad_value: value of the padding: 0, or the lower value of a `Sign`.
        dense: the source called it fully connected; a file may write it so.
    """

    weight: Weight
    bias: Float64
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    group: int = 1
    pad_value: float = 0.0
    dense: bool = False

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """[O, H, W]."""
        shape = self.image_shape(inputs)
        o, c, kh, kw = self.weight.shape
        if shape[0] != c * self.group:
            raise ValueError(f"{self.name}: reads {shape[0]} channels, its weight takes {c * self.group}")
        return o, *window(shape, (kh, kw), self.strides, self.pads)

    def scaled(self, factor: Float64, offset: Float64) -> "Conv":
        """The layer followed by factor * y + offset, float64 [O] each."""
        return replace(self, weight=self.weight.scaled(factor), bias=self.bias * factor + offset)

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """The convolution with its bias, in the dtype of its input."""
        # Copies: a source's arrays may be read-only.
        weight, bias = (torch.tensor(v, dtype=inputs[0].dtype) for v in (self.weight.values, self.bias))
        return self._convolve(inputs[0], weight, bias, self.pad_value)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor, pad_value: float) -> Tensor:
        top, left, bottom, right = self.pads
        if any(self.pads):
            if pad_value == 0 and (top, left) == (bottom, right):
                return functional.conv2d(x, weight, bias, self.strides, (top, left), groups=self.group)
            x = functional.pad(x, (left, right, top, bottom), value=pad_value)
        return functional.conv2d(x, weight, bias, self.strides, groups=self.group)

    def evaluate_on(self, producer: Node | None, inputs: list[Tensor]) -> Tensor:
        """The convolution of integer weights on the values of codes, with exact integer sums: a sum of zero is zero."""
        w = self.weight
        if not isinstance(producer, Quantize | Sign) or w.integers is None or w.unit is None:
            return self.evaluate(inputs)
        if isinstance(producer, Sign):
            step, largest = producer.scale, 1
        else:
            step, largest = producer.step, max(abs(producer.low), producer.high)
        exact_in_float32 = np.abs(w.integers.astype(np.int64)).sum((1, 2, 3)).max() * largest < 1 << 24
        dtype = torch.float32 if exact_in_float32 else torch.float64
        codes = torch.round(inputs[0].to(dtype) / float(np.float32(step)))
        integers, zeros = torch.tensor(w.integers, dtype=dtype), torch.zeros(len(self.bias), dtype=dtype)
        sums = self._convolve(codes, integers, zeros, round(self.pad_value / step))
        scale = torch.from_numpy((w.unit * step).astype(np.float32)).view(-1, 1, 1)
        return sums.float() * scale + torch.from_numpy(self.bias.astype(np.float32)).view(-1, 1, 1)

    def float_reason(self, producer: Node | None) -> str:
        """Why it cannot run on the integer codes that `producer` makes; "" if it can."""
        w = self.weight
        if isinstance(producer, Normalize):
            if w.integers is None or w.is_low_bit or np.abs(w.integers).max() > PIXEL_WEIGHT_LIMIT or self.group != 1:
                return "its weights are float" if w.integers is None else "its weights do not fit the pixel convolution"
            is_plain = producer.is_whole_zero_point and bool((producer.std == 1).all())
            return "" if is_plain else "the channels are normalized differently"
        if not w.is_low_bit:
            return "its weights are float" if w.integers is None else "its weights have 8 bits"
        if self.group != 1:
            return "it is grouped"
        if isinstance(producer, Sign):
            padded = any(self.pads) and self.pad_value != -producer.scale
            return f"it pads 1-bit activations with {self.pad_value:g}" if padded else ""
        if isinstance(producer, Quantize):
            if producer.low != 0 or producer.high not in fmt.CODE_TOPS:
                return f"activation codes {producer.low} to {producer.high} have no bit-planes"
            return "" if self.pad_value == 0 or not any(self.pads) else f"it pads with {self.pad_value:g}"
        return "it reads float activations"

    def reads_codes(self, producer: Node | None) -> bool:
        """Whether the packed form computes it on integers."""
        return not self.float_reason(producer)

    def write(self, graph: GraphBuilder) -> str:
        """`Conv` or, where it ends the network, `Gemm`, on float weights."""
        value, pads = self._padded(graph)
        weight = self.weight.write(graph, self.name, dense=self.name == graph.gemm)
        return self._write_floats(graph, value, pads, weight)

    def write_qonnx(self, graph: GraphBuilder) -> str:
        """`Conv` on a weight that `Quant` makes."""
        weight = self.weight.write_qonnx(graph, self.name)
        return self._write_floats(graph, *self._padded(graph), weight)

    def write_packed(self, graph: GraphBuilder) -> str:
        """The operator of the table above."""
        producer = graph.producer(self.source)
        reason = self.float_reason(producer)
        if not reason:
            return self._write_integers(graph, producer)
        if not np.isfinite(self.bias.astype(np.float32)).all() or not np.isfinite(self.weight.values.astype(np.float32)).all():
            raise ExportError(f"{self.name}: a weight or bias is not finite in float32; the training has diverged")
        is_gemm = self.name == graph.gemm
        graph.written[self.name] = Written("Gemm" if is_gemm else "Conv", reason)
        value, pads = self._padded(graph)
        weight = self.weight.write_packed(graph, self.name, dense=is_gemm)
        return self._write_floats(graph, value, pads, weight)

    def _padded(self, graph: GraphBuilder) -> tuple[str, list[int]]:
        """What a float convolution reads, and its pads: padding with another value than 0 takes a node of its own."""
        value, pads = graph.names[self.source], list(self.pads)
        if not any(pads) or self.pad_value == 0:
            return value, pads
        top, left, bottom, right = pads
        sizes = graph.constant(f"{self.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        fill = graph.scalar(f"{self.name}.pad_value", self.pad_value)
        return graph.node("Pad", f"{self.name}.pad", [value, sizes, fill]), [0, 0, 0, 0]

    def _write_floats(self, graph: GraphBuilder, value: str, pads: list[int], weight: str) -> str:
        bias = graph.constant(f"{self.name}.bias", self.bias.astype(np.float32))
        if self.name == graph.gemm:
            value = graph.node("Flatten", f"{self.name}.input", [value], axis=1)
            return graph.node("Gemm", self.name, [value, weight, bias], transB=1)
        kernel, strides = list(self.weight.shape[2:]), list(self.strides)
        window = {"dilations": [1, 1], "group": self.group, "kernel_shape": kernel, "pads": pads, "strides": strides}
        return graph.node("Conv", self.name, [value, weight, bias], **window)

    def _write_integers(self, graph: GraphBuilder, producer: Node | None) -> str:
        """`PixelConv`, or the convolution on codes of the weight's level set."""
        folded = fold_codes(self.name, self.weight, self.bias, producer)
        name, window = self.name, {"strides": list(self.strides), "pads": list(self.pads)}
        if isinstance(producer, Normalize):
            operator, source = fmt.PIXEL_CONV, graph.names[producer.source]
            zero_point = np.asarray(int(producer.mean[0]), np.uint8)
            constants = {"weight": folded.weight, "zero_point": zero_point}
        else:
            levels, source = self.weight.level_set, graph.codes[self.source]
            assert levels is not None
            operator, attributes = fmt.low_bit_operator(levels, on_codes=True)
            constants = pack_weight(folded.weight, levels)
            o, c, kh, kw = self.weight.shape
            window = {**attributes, "weight_shape": [o, kh, kw, c], **window}
        constants = {**constants, "scale": folded.scale, "bias": folded.bias}
        inputs = [source, *(graph.constant(f"{name}.{key}", array) for key, array in constants.items())]
        graph.written[name] = Written(operator)
        return graph.node(operator, name, inputs, fmt.DOMAIN, **window)
