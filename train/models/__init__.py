"""Networks of `bitplane.train`: the CIFAR and the torchvision ResNets with low-bit convolutions."""

from bitplane.train.models.resnet import ARCHITECTURES, Architecture, BasicBlock, Bottleneck, ModelConfig, ResNet, build_model

__all__ = ["ARCHITECTURES", "Architecture", "BasicBlock", "Bottleneck", "ModelConfig", "ResNet", "build_model"]
