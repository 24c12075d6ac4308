"""The packed dialect: nodes of domain `bitplane` on integer codes and planes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bitplane.export.builder import GraphBuilder, channel_pads, square_pads
from bitplane.export.errors import ExportError
from bitplane.export.fold import FoldedConv, fold_low_bit, fold_pixel
from bitplane.export.pack import LOW_BIT_CONV, pack_weight
from bitplane.runtime import format as fmt
from bitplane.train.activations import LearnedStep, Sign
from bitplane.train.layers import LowBitConv2d, PadShortcut, PixelInput


@dataclass
class PackedDialect:
    """Writes a ResNet's parts as operators of domain `bitplane`.

    Attributes:
        builder: where nodes go.
        planes: all planes so far, uint8 [O, ceil(K / 8)] each, in node order, then input order.
    """

    builder: GraphBuilder
    planes: list[NDArray[np.uint8]] = field(default_factory=list[NDArray[np.uint8]])

    def stem(self, pixels: PixelInput, conv: nn.Conv2d, bn: nn.BatchNorm2d, value: str) -> str:
        """`PixelConv` on pixels."""
        folded = fold_pixel("conv1", conv, bn, pixels)
        b = self.builder
        inputs = [
            value,
            b.constant("conv1.weight", folded.weight),
            b.constant("conv1.zero_point", np.asarray(int(pixels.zero_point), np.uint8)),
            *self._epilogue("conv1", folded),
        ]
        return b.node(fmt.PIXEL_CONV, "conv1", inputs, fmt.DOMAIN, strides=list(conv.stride), pads=square_pads(conv))

    def quantize(self, name: str, quantizer: nn.Module, value: str) -> str:
        """`Quantize` or `Sign` on features."""
        b = self.builder
        if isinstance(quantizer, Sign):
            return b.node(fmt.SIGN, name, [value], fmt.DOMAIN)
        if not isinstance(quantizer, LearnedStep):
            raise ExportError(f"{name}: {type(quantizer).__name__} gives no activation codes; calibrate the network first")
        step = quantizer.step.detach().cpu().abs().clamp(min=1e-8).reshape(()).numpy().astype(np.float32)
        if not np.isfinite(step):
            raise ExportError(f"{name}: the activation step (={step}) is not finite; the training has diverged")
        return b.node(fmt.QUANTIZE, name, [value, b.constant(f"{name}.step", step)], fmt.DOMAIN, top=[quantizer.top])

    def conv(self, name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, quantizer: nn.Module, value: str) -> str:
        """The level set's convolution on codes."""
        if not isinstance(conv, LowBitConv2d) or not isinstance(quantizer, LearnedStep | Sign):
            raise ExportError(f"{name}: not a low-bit convolution on activation codes; export the network as float instead")
        folded = fold_low_bit(name, conv, bn, quantizer)
        planes = pack_weight(folded.weight, conv.levels)
        self.planes += planes.values()
        b = self.builder
        inputs = [value, *(b.constant(f"{name}.{p}", plane) for p, plane in planes.items()), *self._epilogue(name, folded)]
        o, c, kh, kw = folded.weight.shape
        return b.node(
            LOW_BIT_CONV[conv.levels.name],
            name,
            inputs,
            fmt.DOMAIN,
            weight_shape=[o, kh, kw, c],
            strides=list(conv.stride),
            pads=square_pads(conv),
        )

    def pad_shortcut(self, name: str, shortcut: PadShortcut, value: str) -> str:
        """`PadShortcut` on features."""
        steps = [shortcut.stride, shortcut.stride]
        return self.builder.node(fmt.PAD_SHORTCUT, name, [value], fmt.DOMAIN, steps=steps, pads=channel_pads(shortcut))

    def _epilogue(self, name: str, folded: FoldedConv) -> list[str]:
        b = self.builder
        return [b.constant(f"{name}.scale", folded.scale), b.constant(f"{name}.bias", folded.bias)]
