"""Networks of `bitplane.train`: the CIFAR and the torchvision ResNets with low-bit convolutions."""

from bitplane.train.config import ARCHITECTURES, Architecture, ModelConfig
from bitplane.train.models.resnet import BasicBlock, Bottleneck, ResNet, build_model

__all__ = ["ARCHITECTURES", "Architecture", "BasicBlock", "Bottleneck", "ModelConfig", "ResNet", "build_model"]
