"""Networks whose weights are in their level sets and whose BatchNorm has statistics of real activations, without training."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitplane.train.activations import start_steps
from bitplane.train.layers import low_bit_layers
from bitplane.train.models import ModelConfig, ResNet, build_model
from bitplane.train.quantizers import projector

MakeNetwork = Callable[..., tuple[ResNet, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_network() -> MakeNetwork:
    def make(*, size: int = 16, samples: int = 4, seed: int = 0, **config: Any) -> tuple[ResNet, Tensor]:
        torch.manual_seed(seed)
        model = build_model(ModelConfig(**config))
        pixels = torch.randint(0, 256, (samples, model.config.channels, size, size), dtype=torch.uint8)
        with torch.no_grad():
            for conv in low_bit_layers(model).values():
                conv.weight.copy_(projector(conv.weight, conv.levels, conv.level_scale))
            for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                bn.weight.normal_(1, 0.6)  # some factors are negative
                bn.bias.normal_(0, 0.3)
                bn.momentum = None
            for name, p in model.named_parameters():
                if name.endswith(("threshold", "act1.weight", "act2.weight", "act3.weight")):
                    p.normal_(0.1, 0.4)
            start_steps(model, pixels)
            model.train()(pixels)
        return model.eval(), pixels

    return make
