"""ResNets with low-bit convolutions: He et al.'s CIFAR form and torchvision's ResNet-18/34/50.

Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, fc), so its float weights load directly.
The blocks are made of ordinary convolutions, which `prepare` makes low-bit: then each quantizes what it reads (q); the residual
stream stays float:

    8, 4, 2 bits   y = relu(bn1(conv1(q(x))))                            out = relu(bn2(conv2(q(y))) + shortcut(x))
    1 bit          y = bn1(conv1(sign(x))) + shortcut(x)                 out = bn2(conv2(sign(y))) + y
    1 bit          y = f(bn1(conv1(sign(x - t))) + shortcut(x))          out = f(bn2(conv2(sign(y - t))) + y)

The second form is Bi-Real Net's (Liu et al., ECCV 2018; `one_bit` "bi-real"): a shortcut around every convolution, no ReLU.
The third is ReActNet's (Liu et al., ECCV 2020; "reactnet"): f is a PReLU of a slope a channel, t a threshold a channel.
ReActNet also shifts each channel before and after f; here the next BatchNorm's bias and the next threshold do that. "prelu"
and "threshold" have one of the two. A bottleneck has f after two of its BatchNorms and after its sum. The 1x1 convolution of
shortcut form B reads the same codes as the block's first convolution does.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.train.activations import PRelu
from bitplane.train.config import ARCHITECTURES, ModelConfig
from bitplane.train.layers import PadShortcut, PixelInput
from bitplane.train.prepare import Preparation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; see the module's docstring for the two forms."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, config: ModelConfig, shortcut: str) -> None:
        super().__init__()
        self.bi_real = config.is_one_bit
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = _one_bit_activation(width, config)
        self.conv2 = _conv(width, width, 3, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _one_bit_activation(width, config)
        self.downsample = _downsample(in_channels, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x))
        s = x if self.downsample is None else self.downsample(x)
        if self.bi_real:
            y = self.act1(y + s)
            return self.act2(self.bn2(self.conv2(y)) + y)
        return torch.relu(self.bn2(self.conv2(torch.relu(y))) + s)

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
        self.bi_real = config.is_one_bit
        out = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = _one_bit_activation(width, config)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _one_bit_activation(width, config)
        self.conv3 = _conv(width, out, 1, 1)
        self.bn3 = nn.BatchNorm2d(out)
        self.act3 = _one_bit_activation(out, config)
        self.downsample = _downsample(in_channels, out, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 4 width, H / stride, W / stride]."""
        y = self._rectify(self.bn1(self.conv1(x)), self.act1)
        y = self._rectify(self.bn2(self.conv2(y)), self.act2)
        s = x if self.downsample is None else self.downsample(x)
        return self._rectify(self.bn3(self.conv3(y)) + s, self.act3)

    def start_as_identity(self) -> None:
        """Let the block hand on its (rectified) input until training changes it: its last BatchNorm starts at 0."""
        nn.init.zeros_(self.bn3.weight)
        _set_slopes_to_one(self.act3)

    def _rectify(self, x: Tensor, one_bit: nn.Module) -> Tensor:
        return one_bit(x) if self.bi_real else torch.relu(x)


class ResNet(nn.Module):
    """A ResNet on uint8 pixels; `build_model` prepares it.

    Attributes:
        preparation: what became of its layers.

    Shape: uint8 [N, channels, H, W] to float32 logits [N, classes].
    """

    preparation: Preparation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = ARCHITECTURES[config.model]
        shortcut = architecture.shortcut if config.shortcut == "default" else config.shortcut
        block = Bottleneck if architecture.bottleneck else BasicBlock
        width = architecture.widths[0]
        self.bi_real = config.is_one_bit
        self.input = PixelInput(config.zero_point, config.pixel_scale)
        kernel, stride = (7, 2) if architecture.imagenet_stem else (3, 1)
        self.conv1 = nn.Conv2d(config.channels, width, kernel, stride, kernel // 2, bias=False)
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
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[tuple[str, BasicBlock | Bottleneck]]:
        """All residual blocks with their names, in the order of the data."""
        return [(f"{s}.{i}", b) for s in self.stages for i, b in enumerate(getattr(self, s))]

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits."""
        x = self.bn1(self.conv1(self.input(pixels)))
        x = self.maxpool(x if self.bi_real else torch.relu(x))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        # The pooling operator, unlike a mean, keeps the gradient channels-last.
        return self.fc(functional.avg_pool2d(x, x.shape[-2:]).flatten(1))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def _one_bit_activation(channels: int, config: ModelConfig) -> nn.Module:
    return PRelu(channels) if config.one_bit in ("prelu", "reactnet") else nn.Identity()


def _set_slopes_to_one(*activations: nn.Module) -> None:
    for m in activations:
        if isinstance(m, PRelu):
            nn.init.ones_(m.weight)


def _downsample(in_channels: int, out_channels: int, stride: int, shortcut: str) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    if shortcut == "A":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
