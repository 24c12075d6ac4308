"""From a configuration to a network, prepared: the one place where a run's options become arguments of `prepare`."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import nn

from bitplane.train.config import ModelConfig, as_bits
from bitplane.train.errors import ConfigError
from bitplane.train.models.elsewhere import PixelNetwork, make_network
from bitplane.train.models.python_file import PythonFile
from bitplane.train.models.resnet import ResNet
from bitplane.train.prepare import Preparation, PreparedLayer, prepare

V = TypeVar("V")

Model = ResNet | PixelNetwork
"""A network of a run: uint8 [N, channels, H, W] to logits [N, classes], with its `config` and its `preparation`."""


def build_model(config: ModelConfig, code: PythonFile | None = None) -> Model:
    """Build an initialized network, and prepare it as the configuration says.

    Args:
        config: the network.
        code: the Python file that makes it, if one does. A file that only the configuration names is not run.

    Raises:
        ConfigError: there is no such network, its file cannot be used, or an option names no layer, or has no effect.
    """
    own = config.source.kind == "own"
    model: Model = ResNet(config) if own else make_network(config, code)
    layers = model if isinstance(model, ResNet) else model.network
    every = "layer*" if own else "*"
    bits: int | str = "learned-sign" if config.one_bit in ("threshold", "reactnet") else config.activations
    stem = {"conv1": "int8"} if config.stem == "int8" else {}
    keep = config.keep_layers
    if keep is None and own:
        keep = ("fc",) if stem else ("conv1", "fc")
    names = [n for n, m in layers.named_modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    weights = _entries("layer_weights", config.layer_weights, names)
    activations = {p: as_bits(v) for p, v in _entries("layer_activations", config.layer_activations, names).items()}
    _check_patterns("keep_layers", {p: p for p in keep or ()}, names)
    by_weights, by_bits = _after({every: config.weights}, stem | weights), _after({every: bits}, activations)
    table = prepare(layers, by_weights, by_bits, keep=keep, scale=config.scale)
    _check_effect("layer_weights", weights, table, lambda layer: layer.weights)
    _check_effect("layer_activations", activations, table, lambda layer: layer.activations)
    if stem and "conv1" not in weights:
        _check_effect("stem", stem, table, lambda layer: layer.weights)
    model.preparation = table
    return model


def _entries(option: str, entries: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """An option's patterns and their values, PATTERN=VALUE; of a pattern that is there twice the last."""
    found: dict[str, str] = {}
    for entry in entries:
        pattern, _, value = entry.rpartition("=")
        found = _after(found, {pattern: value})
    _check_patterns(option, {p: f"{p}={v}" for p, v in found.items()}, names)
    return found


def _after(first: Mapping[str, V], entries: Mapping[str, V]) -> dict[str, V]:
    """Both, with the entries behind what is in `first`: the last pattern that matches a layer counts."""
    return {p: v for p, v in first.items() if p not in entries} | dict(entries)


def _check_patterns(option: str, said: Mapping[str, str], names: Sequence[str]) -> None:
    for pattern, entry in said.items():
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"`{option}` (={entry}) matches none of {', '.join(names)}")


def _check_effect(option: str, entries: Mapping[str, V], table: Preparation, became: Callable[[PreparedLayer], V]) -> None:
    """Refuse what was asked for by name and is not so in any layer."""
    last = {
        layer.name: next((p for p in reversed(list(entries)) if fnmatch.fnmatchcase(layer.name, p)), "")
        for layer in table.layers
    }
    for pattern, value in entries.items():
        mine = [layer for layer in table.layers if last[layer.name] == pattern]
        if not mine:
            raise ConfigError(f"`{option}` (={pattern}={value}) has no effect: later patterns name all of its layers")
        if all(became(layer) != value for layer in mine):
            why = mine[0].note or f"it has {mine[0].weights} weights"
            raise ConfigError(f"`{option}` (={pattern}={value}) has no effect on {mine[0].name} ({why})")
