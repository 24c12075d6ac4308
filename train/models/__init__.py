"""Networks of `bitplane.train`: the CIFAR and the torchvision ResNets, and networks from elsewhere, with low-bit layers."""

from bitplane.train.config import ARCHITECTURES, Architecture, ModelConfig
from bitplane.train.models.build import Model, build_model
from bitplane.train.models.elsewhere import PixelNetwork
from bitplane.train.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "BasicBlock",
    "Bottleneck",
    "Model",
    "ModelConfig",
    "PixelNetwork",
    "ResNet",
    "build_model",
]
