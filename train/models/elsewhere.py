"""Networks from elsewhere: torchvision's, timm's, and a Python file's, on pixels and with one logit a class of the data.

Weights are never downloaded: a run starts from random ones, or from a file (`--init`).
"""

import copy
import difflib
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bitplane.errors import BitplaneError
from bitplane.train.config import ModelConfig
from bitplane.train.errors import ConfigError, enough_memory
from bitplane.train.layers import PixelInput
from bitplane.train.models.python_file import PythonFile, call
from bitplane.train.prepare import Preparation


class PixelNetwork(nn.Module):
    """A network that takes normalized floats, behind the normalization of uint8 pixels.

    Tensors of the network are called network.NAME in its state dictionary.

    Args:
        config: what the network is.
        network: [N, channels, H, W] float32 to logits [N, classes].

    Attributes:
        preparation: what became of the network's layers, under their names in `network`.

    Shape: uint8 [N, channels, H, W] to float32 logits [N, classes].
    """

    preparation: Preparation

    def __init__(self, config: ModelConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.input = PixelInput(config.zero_point, config.pixel_scale)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits."""
        return self.network(self.input(pixels))


def check_known(config: ModelConfig) -> None:
    """Refuse a network that the package which shall have it does not have.

    Raises:
        ConfigError: the package is not installed, or has no such network.
    """
    source = config.source
    if source.kind in ("own", "file"):
        return
    package = _package(source.kind)
    names: list[str] = package.list_models() if source.kind == "timm" else package.models.list_models(module=package.models)
    if source.name not in names:
        near = difflib.get_close_matches(source.name, names, 3) or names[:3]
        raise ConfigError(
            f"model '{config.model}': {source.kind} has no network for classification of that name; near are {', '.join(near)}"
        )


def make_network(config: ModelConfig, code: PythonFile | None) -> PixelNetwork:
    """The network of a configuration, not prepared, with random weights.

    Args:
        config: of a network that is not the package's own.
        code: the Python file that makes it, if one does.

    Raises:
        ConfigError: there is no such network, or its function cannot be used.
    """
    source = config.source
    if source.kind == "file":
        if code is None:
            raise ConfigError(f"model '{config.model}': a Python file runs only if you name it; add --model {config.model}")
        made = call(code, {"classes": config.classes, "channels": config.channels})
    else:
        check_known(config)
        package = _package(source.kind)
        try:
            if source.kind == "timm":
                made = package.create_model(source.name, pretrained=False, num_classes=config.classes, in_chans=config.channels)
            else:
                made = package.models.get_model(source.name, weights=None, num_classes=config.classes)
        except Exception as e:
            raise ConfigError(f"model '{config.model}': cannot be made ({_said(e)})") from e
    for name, value in (*made.named_parameters(), *made.named_buffers()):
        if is_lazy(value):
            raise ConfigError(f"model '{config.model}': `{name}` has no shape yet; give its layer all sizes, not a lazy one")
    return PixelNetwork(config, made)


@torch.no_grad()
def check_network(model: PixelNetwork, images: Tensor) -> None:
    """Refuse a network that does not take images of the data's size, or does not return a logit for each class.

    Args:
        model: not modified.
        images: uint8 [N, C, H, W], at least two: BatchNorm wants more than one value.

    Raises:
        ConfigError: it does not.
    """
    name, classes = model.config.model, model.config.classes
    size = "x".join(map(str, images.shape[1:]))
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            try:
                with enough_memory(f"model '{name}': a batch of {len(images)} images of {size}"):
                    logits = copy.deepcopy(model).train(training)(images)
            except BitplaneError:
                raise
            except Exception as e:  # whatever a forward may raise
                raise ConfigError(f"model '{name}': does not take images of {size} ({_said(e)}); try another --size") from e
            when = "in training" if training else "in eval mode"
            if not isinstance(logits, Tensor):
                raise ConfigError(f"model '{name}': returns a {type(logits).__name__} {when}; it must return logits alone")
            if logits.shape != (len(images), classes):
                raise ConfigError(
                    f"model '{name}': returns {list(logits.shape)} {when} for {len(images)} images; the data have {classes}"
                    f" classes, so it must be {[len(images), classes]}"
                )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)  # timm is not among our dependencies
    except ImportError as e:
        raise ConfigError(f"model {name}:... needs the package {name}: pip install {name}") from e


def _said(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
