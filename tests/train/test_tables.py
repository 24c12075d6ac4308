"""A user's own method, level set and activations, registered from outside."""

from dataclasses import replace

import pytest
import torch

from bitplane.format.levels import LevelSet
from bitplane.train.activations import ACTIVATION_QUANTIZERS, LearnedStep, register_activation
from bitplane.train.config import ModelConfig, OptimizerConfig, from_options
from bitplane.train.errors import CheckpointError, ConfigError
from bitplane.train.layers import low_bit_layers
from bitplane.train.level_sets import WEIGHT_LEVELS, register_level_set
from bitplane.train.loop import train
from bitplane.train.methods import METHODS, PC, Method, register_method
from bitplane.train.quantizers import piecewise_linear
from bitplane.train.weights import load_final

FIVE = LevelSet("five", (-4, -2, 0, 2, 4), 4, 1.6)


@pytest.fixture
def registered():
    """Rows of each table that are taken away after the test."""
    tables = (METHODS, WEIGHT_LEVELS, ACTIVATION_QUANTIZERS)
    before = [set(table) for table in tables]
    register_method("narrow", Method(PC, lambda unit, levels, r: piecewise_linear(unit, levels, r, 0.0), "linear", 0.02))
    register_level_set(FIVE)
    register_activation(3, lambda channels: LearnedStep(3))
    register_activation("clip", Clip)
    yield
    for table, names in zip(tables, before, strict=True):
        for name in set(table) - names:
            del table[name]


class Clip(torch.nn.Module):
    """Clipped to the learned top of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = torch.nn.Parameter(torch.full((channels, 1, 1), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(x.relu(), self.top)


OPTIONS = {"epochs": 2, "batch_size": 8, "method": "narrow", "weights": "five", "layer_weights": ("layer3.*=binary",)}


@pytest.mark.parametrize("activations", [3, "clip"])
def test_a_run_of_registered_rows_trains_resumes_and_ends_in_its_level_set(registered, pictures, tmp_path, activations):
    config = from_options({**OPTIONS, "activations": activations, "data": str(pictures)})
    train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    model, stored, _ = load_final(tmp_path / "run")
    assert (stored.optimizer.method, stored.model.weights, stored.model.activations) == ("narrow", "five", activations)
    for name, layer in low_bit_layers(model).items():
        levels = (-1.0, 1.0) if name.startswith("layer3") else (-1.0, -0.5, 0.0, 0.5, 1.0)
        units = layer.weight / layer.level_scale
        assert (units[..., None] - torch.tensor(levels)).abs().min(-1).values.max() < 1e-5
    quantizer = model.layer2[1].conv2.quantizer
    assert quantizer.bits == 3 if activations == 3 else quantizer.top.shape == (32, 1, 1)


def test_a_row_that_is_not_registered_is_unknown(pictures, tmp_path, registered):
    train(from_options({**OPTIONS, "epochs": 1, "data": str(pictures)}), tmp_path / "run", progress=False)
    del METHODS["narrow"]
    with pytest.raises(CheckpointError, match=r"`method` \(='narrow'\) must be one of bc, .*pc-averaged\)"):
        train(from_options({"data": str(pictures)}), tmp_path / "run", resume=True)


def test_other_names_are_refused_with_those_that_there_are(registered):
    for options, complaint in (
        ({"weights": "six"}, "`weights` (='six') must be one of binary, ternary, quaternary, float, five"),
        ({"activations": 5}, "`activations` (=5) must be one of 32, 8, 4, 2, 1, learned-sign, 3, clip"),
        (
            {"layer_weights": ("*=six",)},
            "`layer_weights` (=*=six) must read PATTERN=LEVELS, of binary, ternary, quaternary, float, int8, five",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            ModelConfig(**options)
        assert str(error.value) == complaint
    with pytest.raises(ConfigError, match=r"must be one of bc, .*, narrow$"):
        replace(OptimizerConfig(), method="wide")


@pytest.mark.parametrize("name", ["pc", "narrow"])
def test_a_name_stands_for_one_row(registered, name):
    before = METHODS[name]
    with pytest.raises(ConfigError, match=f"`method` {name} is taken"):
        register_method(name, METHODS["bc"])
    assert METHODS[name] is before


@pytest.mark.parametrize("name", ["", "two words", "a/b", "x=y"])
def test_a_name_must_fit_into_options_and_folders(registered, name):
    with pytest.raises(ConfigError, match="take letters, digits"):
        register_method(name, METHODS["bc"])


def test_float_is_no_level_set(registered):
    with pytest.raises(ConfigError, match="`weights` float is taken"):
        register_level_set(LevelSet("float", (-1, 1), 1, 0.8))


def test_a_method_of_some_level_sets_refuses_others(registered, pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"`method` \(=twn\) is defined for ternary weights, not five"):
        train(from_options({"method": "twn", "weights": "five", "data": str(pictures)}), tmp_path / "run")
