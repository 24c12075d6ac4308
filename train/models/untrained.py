"""Networks with random weights in their level sets, ready for export: their speed is that of trained ones of the same shape."""

import torch
from torch import Tensor, nn

from bitplane.train.activations import start_steps
from bitplane.train.config import ModelConfig
from bitplane.train.layers import low_bit_layers
from bitplane.train.models import Model, build_model
from bitplane.train.quantizers import projector


@torch.no_grad()
def untrained_model(config: ModelConfig, pixels: Tensor, seed: int = 0) -> Model:
    """A network with exact levels, and with BatchNorm statistics and activation steps of real activations.

    Args:
        config: the network.
        pixels: uint8 [N, C, H, W]: what the statistics and steps are taken from.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
    for conv in low_bit_layers(model).values():
        conv.fit_scale()
        conv.weight.copy_(projector(conv.weight, conv.levels, conv.level_scale))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # the statistics become those of the next pass
    start_steps(model, pixels)
    model.train()(pixels)
    return model.eval()
