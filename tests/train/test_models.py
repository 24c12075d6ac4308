"""Networks before training: a deeper one that starts from a shallower one."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from bitplane.train.config import ModelConfig
from bitplane.train.errors import CheckpointError, ConfigError
from bitplane.train.models import build_model
from bitplane.train.weights import load_weights


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("weights", "activations", "one_bit"),
    [("float", 32, "bi-real"), ("ternary", 32, "bi-real"), ("binary", 1, "bi-real"), ("binary", 1, "reactnet")],
)
@pytest.mark.parametrize(("deep", "shallow"), [("resnet56", "resnet20"), ("resnet34", "resnet18")])
def test_a_deeper_network_starts_as_the_shallower_one(tmp_path, images, weights, activations, one_bit, deep, shallow):
    config = ModelConfig(model=shallow, weights=weights, activations=activations, one_bit=one_bit)
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


@pytest.mark.parametrize("model", ["resnet20", "resnet50"])
def test_reactnets_blocks_start_from_bi_real_nets(tmp_path, images, model):
    """With slopes of 1 and thresholds of 0 they are its blocks; both learn from the first step on."""
    bi_real = build_model(ModelConfig(model=model, weights="binary", activations=1)).train()
    bi_real(images)
    save_file(bi_real.state_dict(), tmp_path / "model.safetensors")
    react = build_model(ModelConfig(model=model, weights="binary", activations=1, one_bit="reactnet"))
    new = load_weights(react, tmp_path / "model.safetensors", lenient=True)
    kinds = {name.rpartition(".")[2] for name in new}
    assert kinds == {"threshold", "weight"}
    with torch.no_grad():
        for name, p in react.named_parameters():
            if name in new and name.endswith("weight"):
                p.fill_(1)
    torch.testing.assert_close(react.eval()(images), bi_real.eval()(images))
    react.train()(images).square().sum().backward()
    parameters = dict(react.named_parameters())
    assert all(parameters[name].grad.abs().sum() > 0 for name in new)


def test_reactnets_blocks_are_refused_with_other_bits():
    with pytest.raises(ConfigError, match=r"`one_bit` \(=reactnet\) is a form of 1-bit `activations`, which are 2 here"):
        ModelConfig(activations=2, one_bit="reactnet")
