"""Layers of low-bit networks: low-bit and 8-bit ones, the pixel input, and the parameter-free shortcut."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.format.levels import LevelSet
from bitplane.train.config import ScaleOption
from bitplane.train.errors import ConfigError
from bitplane.train.quantizers.scale import mean_above, nearest_scale, ternary_threshold


class PixelInput(nn.Module):
    """Image bytes to the network's input: (pixel - zero_point) / scale, one pair for all channels.

    One integer zero point makes zero padding of the input equal to padding pixels with that byte, so the same
    convolution runs exactly on uint8.

    Shape: uint8 [N, C, H, W] to float32 of the same shape.
    """

    def __init__(self, zero_point: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.zero_point: Tensor
        self.scale: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize a batch of pixels."""
        return (pixels.float() - self.zero_point) / self.scale


INT8_LIMIT = 64
"""Largest integer of an 8-bit weight: products of pairs with 8-bit codes then fit the 16 bits that AVX2 adds them in."""


class Int8Conv2d(nn.Conv2d):
    """A convolution whose weights are rounded as export rounds those of the first layer, in every forward pass.

    Integers in [-64, 64] times one step a channel, the channel's largest weight over 64. The gradient passes unchanged
    (straight-through estimator). Without it export rounds weights that training has never seen rounded, which moves
    activations near a boundary to the neighboring code.
    """

    @torch.no_grad()
    def integers(self) -> tuple[Tensor, Tensor]:
        """The integers [O, C / groups, kh, kw] and the step [O, 1, 1, 1] of a channel, both of the weight's dtype."""
        step = self.weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LIMIT
        return (self.weight / step).round(), step

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weights that the network computes with; rounding them again changes nothing."""
        integers, step = self.integers()
        return integers * step

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, O, H', W']."""
        weight = self.weight + (self.rounded() - self.weight).detach()
        return self._conv_forward(input, weight, self.bias)


class CodedLayer(nn.Module):
    """A layer that reads its input through a quantizer, if it has one.

    Attributes:
        quantizer: of the activations that it reads, if it has one of its own. Layers that read the same value share one, a
            submodule of the first of them: then and otherwise it is `input_quantizer`.
        pad_value: value of the padding: 0, or -1 for 1-bit activations.
    """

    weight: Tensor  # an nn.Parameter
    quantizer: nn.Module | None
    pad_value: float
    _shared: tuple[nn.Module, ...]

    def make_coded(self) -> None:
        """Let the layer read values as they are, until it gets a quantizer."""
        self.quantizer, self._shared, self.pad_value = None, (), 0.0

    @property
    def input_quantizer(self) -> nn.Module | None:
        """The quantizer of the activations that the layer reads, its own or another layer's."""
        return self._shared[0] if self._shared else self.quantizer

    def read_through(self, quantizer: nn.Module, *, own: bool) -> None:
        """Quantize what the layer reads.

        Args:
            quantizer: [N, ...] to the same shape.
            own: it becomes a submodule; otherwise it is one of another layer.
        """
        if own:
            self.quantizer = quantizer
        else:
            self._shared = (quantizer,)  # in a tuple, so that it is registered once: a state dictionary names it once
        self.pad_value = -1.0 if getattr(quantizer, "bits", 0) == 1 else 0.0


class CodedConv2d(CodedLayer, nn.Conv2d):
    """A convolution of quantized activations."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, O, H', W']."""
        quantizer = self.input_quantizer
        x = input if quantizer is None else quantizer(input)
        around = cast("list[int]", self._reversed_padding_repeated_twice)
        if not self.pad_value or not any(around):
            return self._conv_forward(x, self.weight, self.bias)
        x = functional.pad(x, around, value=self.pad_value)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class CodedLinear(CodedLayer, nn.Linear):
    """A fully connected layer of quantized activations."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, ..., K] to [N, ..., O]."""
        quantizer = self.input_quantizer
        return functional.linear(input if quantizer is None else quantizer(input), self.weight, self.bias)


class LowBitLayer(CodedLayer):
    """A layer whose weight is driven to `level_scale` times a level set by the optimizer.

    Attributes:
        weight: float32 [O, ...], what the network computes with; the optimizer moves and quantizes it.
        level_scale: buffer of the weight's dtype, [O, 1, ...] for one factor a channel, [2, 1, ...] for one of positive and one
            of negative levels, [1, 1, ...] otherwise; saved with the model, so that `weight / level_scale` rounds to exact
            levels at export.
        levels: the level set.
        scale_option: which form `level_scale` has; "none" is one factor that stays 1.
    """

    level_scale: Tensor
    levels: LevelSet
    scale_option: ScaleOption
    _fitted: tuple[int, Tensor]

    def make_low_bit(self, levels: LevelSet, scale: ScaleOption) -> None:
        """Give the layer its level set, and a scale fitted to the present weights.

        Raises:
            ConfigError: a scale is asked of too few weights to determine it.
        """
        w = self.weight
        count = w.numel() // (w.shape[0] if scale == "channel" else 1)
        if scale != "none" and count < len(levels.values):
            raise ConfigError(
                f"`scale` (={scale}): a layer of weights {list(w.shape)} has {count} weights for a scale of"
                f" {len(levels.values)} levels; take `scale` layer or none, or keep the layer as it is"
            )
        self.make_coded()
        self.levels, self.scale_option = levels, scale
        shape = ({"channel": w.shape[0], "two-sided": 2}.get(scale, 1), *[1] * (w.dim() - 1))
        self.register_buffer("level_scale", torch.ones(shape, dtype=w.dtype, device=w.device))
        self.fit_scale()

    @torch.no_grad()
    def fit_scale(self) -> None:
        """Estimate `level_scale` from the present weights; a fixed set ("none") keeps 1."""
        if self.scale_option == "two-sided":
            threshold = ternary_threshold(self.weight, False, "ttq")
            self.level_scale.copy_(torch.cat([mean_above(self.weight, threshold, side) for side in (1, -1)]))
        elif self.scale_option != "none":
            self.level_scale.copy_(nearest_scale(self.weight, self.levels, self.scale_option == "channel"))
        self._fitted = self.weight._version, self.level_scale.clone()

    def follow_weights(self) -> None:
        """Fit the scale again if other weights have been loaded since, and no scale with them."""
        version, scale = self._fitted
        if self.weight._version != version and torch.equal(self.level_scale, scale.to(self.level_scale.device)):
            self.fit_scale()


class LowBitConv2d(LowBitLayer, CodedConv2d):
    """A convolution whose weight [O, C / groups, kh, kw] is driven to a level set.

    Args:
        in_channels: as in `nn.Conv2d`, as what follows.
        out_channels: see there.
        kernel_size: see there.
        stride: see there.
        padding: see there.
        bias: see there.
        levels: the level set.
        scale: see `LowBitLayer.scale_option`.
        pad_value: see `CodedLayer`.

    Raises:
        ConfigError: a scale is asked of too few weights to determine it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
        levels: LevelSet,
        scale: ScaleOption = "none",
        pad_value: float = 0.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.make_low_bit(levels, scale)
        self.pad_value = pad_value


class LowBitLinear(LowBitLayer, CodedLinear):
    """A fully connected layer whose weight [O, K] is driven to a level set; `prepare` makes it of an `nn.Linear`."""


def low_bit_layers(model: nn.Module) -> dict[str, LowBitLayer]:
    """The low-bit layers of a network by name, in the order of its modules."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LowBitLayer)}


class PadShortcut(nn.Module):
    """He et al.'s option A: subsample in space and append zero channels.

    Shape: [N, C, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        # A pool of one pixel: a slice whose gradient, unlike indexing's, stays channels-last.
        return functional.pad(functional.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.extra))


def batch_norms(model: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None)


def batch_norm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of BatchNorm's running statistics by their names in the state dictionary."""
    return {k: v.clone() for k, v in model.state_dict().items() if "running_" in k or "num_batches" in k}


@torch.no_grad()
def set_batch_norm_statistics(model: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Give a network the statistics that `batch_norm_statistics` has copied."""
    own = model.state_dict()
    for name, value in statistics.items():
        own[name].copy_(value)
