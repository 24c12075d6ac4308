"""The float dialect: standard float32 operators with BatchNorm folded in, the twin that other engines are measured on."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto
from torch import nn

from bitplane.export.builder import GraphBuilder, channel_pads, square_pads
from bitplane.export.errors import ExportError
from bitplane.export.fold import batch_norm_affine, to_float64
from bitplane.train.activations import LearnedStep
from bitplane.train.layers import PadShortcut, PixelInput


@dataclass
class FloatDialect:
    """Writes a ResNet's parts as standard ONNX operators in float32.

    Attributes:
        builder: where nodes go.
    """

    builder: GraphBuilder

    def stem(self, pixels: PixelInput, conv: nn.Conv2d, bn: nn.BatchNorm2d, value: str) -> str:
        """(pixel - zero_point) / scale, then `Conv`."""
        b = self.builder
        zero_point = b.constant("input.zero_point", np.asarray(float(pixels.zero_point), np.float32))
        scale = b.constant("input.scale", np.asarray(float(pixels.scale), np.float32))
        value = b.node("Cast", "input.cast", [value], to=int(TensorProto.FLOAT))
        value = b.node("Sub", "input.sub", [value, zero_point])
        value = b.node("Div", "input.div", [value, scale])
        return self.conv("conv1", conv, bn, nn.Identity(), value)

    def quantize(self, name: str, quantizer: nn.Module, value: str) -> str:
        """Nothing for float activations; otherwise `Div`, `Round`, `Clip`, `Mul` with the learned step."""
        if isinstance(quantizer, nn.Identity):
            return value
        if not isinstance(quantizer, LearnedStep):
            raise ExportError(f"{name}: 1-bit activations need low-bit weights; train with 2 or more activation bits")
        b = self.builder
        step = b.constant(f"{name}.step", quantizer.step.detach().cpu().abs().clamp(min=1e-8).reshape(()).numpy())
        low = b.constant(f"{name}.low", np.asarray(0, np.float32))
        top = b.constant(f"{name}.top", np.asarray(quantizer.top, np.float32))
        value = b.node("Div", f"{name}.div", [value, step])
        value = b.node("Round", f"{name}.round", [value])
        value = b.node("Clip", f"{name}.clip", [value, low, top])
        return b.node("Mul", name, [value, step])

    def conv(self, name: str, conv: nn.Conv2d, bn: nn.BatchNorm2d, quantizer: nn.Module, value: str) -> str:
        """`Conv` with bias."""
        factor, offset = batch_norm_affine(bn)
        weight = to_float64(conv.weight) * factor[:, None, None, None]
        b = self.builder
        inputs = [
            value,
            b.constant(f"{name}.weight", weight.astype(np.float32)),
            b.constant(f"{name}.bias", offset.astype(np.float32)),
        ]
        kernel = [int(k) for k in conv.kernel_size]
        return b.node("Conv", name, inputs, kernel_shape=kernel, strides=list(conv.stride), pads=square_pads(conv))

    def pad_shortcut(self, name: str, shortcut: PadShortcut, value: str) -> str:
        """`Slice` and `Pad`."""
        b = self.builder
        starts = b.constant(f"{name}.starts", np.zeros(2, np.int64))
        ends = b.constant(f"{name}.ends", np.full(2, np.iinfo(np.int64).max))
        axes = b.constant(f"{name}.axes", np.asarray([2, 3], np.int64))
        steps = b.constant(f"{name}.steps", np.full(2, shortcut.stride, np.int64))
        pads = b.constant(f"{name}.pads", np.asarray(channel_pads(shortcut), np.int64))
        value = b.node("Slice", f"{name}.slice", [value, starts, ends, axes, steps])
        return b.node("Pad", name, [value, pads])
