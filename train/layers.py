"""Layers of low-bit networks: the pixel input and its convolution, the low-bit one, and the parameter-free shortcut."""

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


PIXEL_LEVELS = 64
"""Largest integer of a weight on pixels in an exported file."""


class PixelConv2d(nn.Conv2d):
    """A convolution of pixels whose weights are rounded as export rounds them, in every forward pass.

    Integers in [-64, 64] times one step a channel, the channel's largest weight over 64. The gradient passes unchanged
    (straight-through estimator). Without it export rounds weights that training has never seen rounded, which moves
    activations near a boundary to the neighboring code.
    """

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weights that the network computes with, float32 [O, C, kh, kw]; rounding them again changes nothing."""
        step = self.weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / PIXEL_LEVELS
        return (self.weight / step).round() * step

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, O, H', W']."""
        weight = self.weight + (self.rounded() - self.weight).detach()
        return functional.conv2d(input, weight, None, self.stride, self.padding)


class LowBitConv2d(nn.Conv2d):
    """A convolution without bias whose weight is driven to `level_scale` times a level set by the optimizer.

    Attributes:
        weight: float32 [O, C, kh, kw], what the network computes with; the optimizer moves and quantizes it.
        level_scale: float32 buffer, [O, 1, 1, 1] for one factor a channel, [2, 1, 1, 1] for one of positive and one of negative
            levels, [1, 1, 1, 1] otherwise; saved with the model, so that `weight / level_scale` rounds to exact levels at
            export.
        levels: the level set.
        pad_value: value of the padding: 0, or -1 for 1-bit activations.

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
        levels: LevelSet,
        scale: ScaleOption = "none",
        pad_value: float = 0.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.levels = levels
        self.scale_option: ScaleOption = scale
        self.pad_value = pad_value
        count = self.weight.numel() // (out_channels if scale == "channel" else 1)
        if scale != "none" and count < len(levels.values):
            raise ConfigError(
                f"`scale` (={scale}): a convolution of {in_channels} to {out_channels} channels has {count} weights for a scale"
                f" of {len(levels.values)} levels; take `scale` layer or none, or wider layers"
            )
        shape = ({"channel": out_channels, "two-sided": 2}.get(scale, 1), 1, 1, 1)
        self.register_buffer("level_scale", torch.ones(shape))
        self.level_scale: Tensor

    @torch.no_grad()
    def fit_scale(self) -> None:
        """Estimate `level_scale` from the present weights; a fixed set ("none") keeps 1."""
        if self.scale_option == "two-sided":
            threshold = ternary_threshold(self.weight, False, "ttq")
            self.level_scale.copy_(torch.cat([mean_above(self.weight, threshold, side) for side in (1, -1)]))
        elif self.scale_option != "none":
            self.level_scale.copy_(nearest_scale(self.weight, self.levels, self.scale_option == "channel"))

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, O, H', W']."""
        if self.pad_value and self.padding != (0, 0):
            p = int(self.padding[0])
            return functional.conv2d(functional.pad(input, (p, p, p, p), value=self.pad_value), self.weight, None, self.stride)
        return functional.conv2d(input, self.weight, None, self.stride, self.padding)


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


def batch_norm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of BatchNorm's running statistics by their names in the state dictionary."""
    return {k: v.clone() for k, v in model.state_dict().items() if "running_" in k or "num_batches" in k}
