"""Networks before training: a deeper one that starts from a shallower one."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from bitplane.train.checkpoint import load_weights
from bitplane.train.config import ModelConfig
from bitplane.train.errors import CheckpointError
from bitplane.train.models import build_model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("weights", "activations"), [("float", 32), ("ternary", 32), ("binary", 1)])
@pytest.mark.parametrize(("deep", "shallow"), [("resnet56", "resnet20"), ("resnet34", "resnet18")])
def test_a_deeper_network_starts_as_the_shallower_one(tmp_path, images, weights, activations, deep, shallow):
    config = ModelConfig(model=shallow, weights=weights, activations=activations)
    source = build_model(config)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model = build_model(replace(config, model=deep))
    load_weights(model, tmp_path / "model.safetensors", lenient=True)
    source.eval(), model.eval()
    with torch.no_grad():
        expected = source(images)
        assert expected.std() > 0
        assert torch.equal(model(images), expected)
        block = model.layer2[-1]
        block.bn2.weight += 1
        assert not torch.equal(model(images), expected)  # the new blocks do count once they are trained


@pytest.mark.parametrize(("deep", "shallow"), [("resnet20", "resnet56"), ("resnet50", "resnet34"), ("resnet20", "resnet18")])
def test_a_network_of_another_kind_is_no_start(tmp_path, deep, shallow):
    save_file(build_model(ModelConfig(model=shallow)).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_weights(build_model(ModelConfig(model=deep)), tmp_path / "model.safetensors", lenient=True)
