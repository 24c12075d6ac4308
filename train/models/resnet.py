"""ResNets with low-bit convolutions: He et al.'s CIFAR form and torchvision's ResNet-18/34/50.

Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, fc), so its float weights load directly.
Activation quantizers sit where a tensor is produced for convolutions; the residual stream stays float:

    8, 4, 2 bits   a = quant1(x)     y = quant2(relu(bn1(conv1(a))))     out = relu(bn2(conv2(y)) + shortcut(x))
    1 bit          y = bn1(conv1(sign(x))) + shortcut(x)                 out = bn2(conv2(sign(y))) + y
    1 bit          y = f(bn1(conv1(sign(x - t))) + shortcut(x))          out = f(bn2(conv2(sign(y - t))) + y)

The second form is Bi-Real Net's (Liu et al., ECCV 2018; `one_bit` "bi-real"): a shortcut around every convolution, no ReLU.
The third is ReActNet's (Liu et al., ECCV 2020; "reactnet"): f is a PReLU of a slope a channel, t a threshold a channel.
ReActNet also shifts each channel before and after f; here the next BatchNorm's bias and the next threshold do that. "prelu"
and "threshold" have one of the two. A bottleneck has f after two of its BatchNorms and after its sum. The 1x1 convolution of
shortcut form B reads the codes of quant1, as the block's first convolution does.
"""

import fnmatch

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.train.activations import ACTIVATION_QUANTIZERS, PRelu
from bitplane.train.config import ARCHITECTURES, ModelConfig
from bitplane.train.errors import ConfigError
from bitplane.train.layers import LowBitConv2d, PadShortcut, PixelConv2d, PixelInput
from bitplane.train.level_sets import WEIGHT_LEVELS


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; see the module's docstring for the two forms."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, config: ModelConfig, shortcut: str) -> None:
        super().__init__()
        self.bi_real = config.activations == 1
        self.quant1 = _quantizer(in_channels, config)
        self.conv1 = _conv(in_channels, width, 3, stride, config)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = _one_bit_activation(width, config)
        self.quant2 = _quantizer(width, config)
        self.conv2 = _conv(width, width, 3, 1, config)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _one_bit_activation(width, config)
        self.downsample = _downsample(in_channels, width, stride, config, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, width, H / stride, W / stride]."""
        a = self.quant1(x)
        y = self.bn1(self.conv1(a))
        s = _shortcut(self.downsample, x, a)
        if self.bi_real:
            y = self.act1(y + s)
            return self.act2(self.bn2(self.conv2(self.quant2(y))) + y)
        return torch.relu(self.bn2(self.conv2(self.quant2(torch.relu(y)))) + s)

    def start_as_identity(self) -> None:
        """Let the block hand on its (rectified) input until training changes it: the last BatchNorm of each sum starts at 0."""
        for norm in (self.bn1, self.bn2) if self.bi_real else (self.bn2,):
            nn.init.zeros_(norm.weight)
        _set_slopes_to_one(self.act1, self.act2)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, as in torchvision) and 1x1 convolutions with one shortcut; at 1 bit without ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, config: ModelConfig, shortcut: str) -> None:
        super().__init__()
        self.bi_real = config.activations == 1
        out = width * self.expansion
        self.quant1 = _quantizer(in_channels, config)
        self.conv1 = _conv(in_channels, width, 1, 1, config)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = _one_bit_activation(width, config)
        self.quant2 = _quantizer(width, config)
        self.conv2 = _conv(width, width, 3, stride, config)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _one_bit_activation(width, config)
        self.quant3 = _quantizer(width, config)
        self.conv3 = _conv(width, out, 1, 1, config)
        self.bn3 = nn.BatchNorm2d(out)
        self.act3 = _one_bit_activation(out, config)
        self.downsample = _downsample(in_channels, out, stride, config, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 4 width, H / stride, W / stride]."""
        a = self.quant1(x)
        y = self._rectify(self.bn1(self.conv1(a)), self.act1)
        y = self._rectify(self.bn2(self.conv2(self.quant2(y))), self.act2)
        return self._rectify(self.bn3(self.conv3(self.quant3(y))) + _shortcut(self.downsample, x, a), self.act3)

    def start_as_identity(self) -> None:
        """Let the block hand on its (rectified) input until training changes it: its last BatchNorm starts at 0."""
        nn.init.zeros_(self.bn3.weight)
        _set_slopes_to_one(self.act3)

    def _rectify(self, x: Tensor, one_bit: nn.Module) -> Tensor:
        return one_bit(x) if self.bi_real else torch.relu(x)


class ResNet(nn.Module):
    """A ResNet on uint8 pixels.

    Shape: uint8 [N, channels, H, W] to float32 logits [N, classes].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = ARCHITECTURES[config.model]
        shortcut = architecture.shortcut if config.shortcut == "default" else config.shortcut
        block = Bottleneck if architecture.bottleneck else BasicBlock
        width = architecture.widths[0]
        self.bi_real = config.activations == 1
        self.input = PixelInput(config.zero_point, config.pixel_scale)
        kernel, stride = (7, 2) if architecture.imagenet_stem else (3, 1)
        stem = PixelConv2d if config.stem == "int8" else nn.Conv2d
        self.conv1 = stem(config.channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if architecture.imagenet_stem else nn.Identity()
        channels = width
        self.stages: list[str] = []
        for i, (count, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True)):
            layers = []
            for j in range(count):
                layers.append(block(channels, width, 2 if i > 0 and j == 0 else 1, config, shortcut))
                channels = width * block.expansion
            self.stages.append(f"layer{i + 1}")
            setattr(self, self.stages[-1], nn.Sequential(*layers))
        self.fc = nn.Linear(channels, config.classes)
        _choose_levels(self.low_bit_layers(), config.layer_weights)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(m, LowBitConv2d):
                m.fit_scale()

    def blocks(self) -> list[tuple[str, BasicBlock | Bottleneck]]:
        """All residual blocks with their names, in the order of the data."""
        return [(f"{s}.{i}", b) for s in self.stages for i, b in enumerate(getattr(self, s))]

    def low_bit_layers(self) -> dict[str, LowBitConv2d]:
        """The low-bit convolutions by name, in the order of their parameters."""
        return {n: m for n, m in self.named_modules() if isinstance(m, LowBitConv2d)}

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits."""
        x = self.bn1(self.conv1(self.input(pixels)))
        x = self.maxpool(x if self.bi_real else torch.relu(x))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        # The pooling operator, unlike a mean, keeps the gradient channels-last.
        return self.fc(functional.avg_pool2d(x, x.shape[-2:]).flatten(1))


def build_model(config: ModelConfig) -> ResNet:
    """Build an initialized network."""
    return ResNet(config)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, config: ModelConfig) -> nn.Conv2d:
    if config.weights == "float":
        return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    pad_value = -1.0 if config.activations == 1 else 0.0
    levels = WEIGHT_LEVELS[config.weights]
    return LowBitConv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, levels=levels, scale=config.scale, pad_value=pad_value
    )


def _quantizer(channels: int, config: ModelConfig) -> nn.Module:
    no_thresholds = config.activations == 1 and config.one_bit not in ("threshold", "reactnet")
    return ACTIVATION_QUANTIZERS[config.activations](0 if no_thresholds else channels)


def _one_bit_activation(channels: int, config: ModelConfig) -> nn.Module:
    return PRelu(channels) if config.activations == 1 and config.one_bit in ("prelu", "reactnet") else nn.Identity()


def _set_slopes_to_one(*activations: nn.Module) -> None:
    for m in activations:
        if isinstance(m, PRelu):
            nn.init.ones_(m.weight)


def _downsample(in_channels: int, out_channels: int, stride: int, config: ModelConfig, shortcut: str) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    if shortcut == "A":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride, config), nn.BatchNorm2d(out_channels))


def _shortcut(downsample: nn.Module | None, x: Tensor, a: Tensor) -> Tensor:
    if downsample is None:
        return x
    return downsample(x if isinstance(downsample, PadShortcut) else a)


def _choose_levels(layers: dict[str, LowBitConv2d], entries: tuple[str, ...]) -> None:
    for entry in entries:
        pattern, _, name = entry.partition("=")
        found = [layer for n, layer in layers.items() if fnmatch.fnmatchcase(n, pattern)]
        if not found:
            raise ConfigError(f"`layer_weights` (={entry}) matches none of {', '.join(layers)}")
        for layer in found:
            layer.levels = WEIGHT_LEVELS[name]
