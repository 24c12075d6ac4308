"""The configuration of a training run: frozen dataclasses, stored as JSON beside the checkpoints."""

import math
from dataclasses import dataclass, field
from typing import Literal

from bitplane.train.data import DataConfig
from bitplane.train.fields import check_fields
from bitplane.train.models import ModelConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move; a value that cannot be used raises ConfigError.

    Attributes:
        method: update rule: bc, pc, pq, rpc or ptq.
        base: wrapped optimizer.
        lr: peak learning rate.
        momentum: of SGD (Nesterov).
        weight_decay: on convolution and classifier weights (the latent ones where they are kept).
        warmup: share of the steps over which the learning rate rises.
        rho_0: first rho and varrho of the quantizer, in units of the level set.
        soft: share of the steps before the quantizer becomes the projector.
        clamp: latent weights stay within this multiple of the top level.
    """

    method: Literal["bc", "pc", "pq", "rpc", "ptq"] = "pc"
    base: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.1
    rho_0: float = 0.01
    soft: float = 0.75
    clamp: float = 3.0

    def __post_init__(self) -> None:
        share, positive = (0, 1), (0, math.inf)
        check_fields(
            self,
            lr=positive,
            momentum=share,
            weight_decay=positive,
            warmup=share,
            rho_0=positive,
            soft=share,
            clamp=(1, math.inf),
        )


@dataclass(frozen=True)
class TrainConfig:
    """A whole run; a value that cannot be used raises ConfigError.

    Attributes:
        model: the network; classes, channels and normalization come from the data.
        data: the images.
        optimizer: how weights move.
        epochs: passes over the training images.
        batch_size: images a process and step.
        seed: of initialization, order and augmentation.
        mixed_precision: of the forward pass; weights, latents and statistics stay float32.
        keep: checkpoints kept for resuming.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 30
    batch_size: int = 128
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    keep: int = 2

    def __post_init__(self) -> None:
        many = (1, math.inf)
        check_fields(self, epochs=many, batch_size=many, seed=(0, 2**32 - 1), keep=many)
