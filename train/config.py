"""The configuration of a training run: frozen dataclasses, stored as JSON beside the checkpoints.

Field names are unique over all of them: `to_options` and `from_options` convert to and from one dictionary of options, the
form of the command line and of experiment descriptions. Needs no torch.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args

from bitplane.format.limits import MAX_SIDE
from bitplane.train.errors import ConfigError
from bitplane.train.sources import ModelSource, model_source
from bitplane.train.tables import has_row, names_of
from bitplane.train.validation import check_fields

MethodName = Literal[
    "bc", "bc-stochastic", "pc", "pq", "rpc", "ptq", "binary-relax", "bwn", "twn", "ttq", "mirror-tanh", "bnn", "bnn+", "bnn++",
    "parq", "pc-random", "pc-averaged",
]  # fmt: skip
Weights = Literal["binary", "ternary", "quaternary", "float"]
Activations = Literal[32, 8, 4, 2, 1]
MOST = 1_000_000_000
"""Of epochs, images, classes and so on: more is a slip, and what is computed from it stays exact."""
ScaleOption = Literal["none", "layer", "channel", "two-sided"]
ScaleFitOption = Literal["method", "fixed", "least-squares", "learned"]


@dataclass(frozen=True)
class Architecture:
    """Shape of a ResNet.

    Attributes:
        blocks: residual blocks in each stage.
        widths: channels of each stage (before a bottleneck's expansion).
        bottleneck: bottleneck blocks instead of basic ones.
        imagenet_stem: 7x7 convolution of stride 2 and max-pooling, instead of one 3x3 convolution.
        shortcut: default form of the shortcuts that change shape.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    imagenet_stem: bool
    shortcut: Literal["A", "B"]


def _cifar(depth: int) -> Architecture:
    return Architecture(((depth - 2) // 6,) * 3, (16, 32, 64), bottleneck=False, imagenet_stem=False, shortcut="A")


def _torchvision(blocks: tuple[int, ...], bottleneck: bool = False) -> Architecture:
    return Architecture(blocks, (64, 128, 256, 512), bottleneck, imagenet_stem=True, shortcut="B")


ARCHITECTURES = {
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    "resnet18": _torchvision((2, 2, 2, 2)),
    "resnet34": _torchvision((3, 4, 6, 3)),
    "resnet50": _torchvision((3, 4, 6, 3), bottleneck=True),
}


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines a network's structure; a value that cannot be used raises ConfigError.

    Attributes:
        model: resnet20, 32, 44, 56, 110 (32x32 images), resnet18, 34, 50, or a network from elsewhere: torchvision:NAME,
            timm:NAME, or FILE.py:FUNCTION, a Python file and the function in it that returns an nn.Module.
        weights: level set of the layers between the first and the last, or "float"; see `register_level_set` for others.
        layer_weights: other weights for some layers, PATTERN=LEVELS (layer3.*=binary, also int8 and float), the last match
            counts.
        activations: bits of the activations that low-bit layers read; 32 is float; see `register_activation` for others.
        layer_activations: other bits for some layers, PATTERN=BITS, the last match counts.
        keep_layers: patterns of layers that stay as they are; default: the first and the last.
        one_bit: form of the blocks of 1-bit activations, see `bitplane.train.models.resnet`; this and the next two are of the
            package's own ResNets.
        shortcut: "A" (subsample and pad) or "B" (1x1 convolution); "default" takes the architecture's own.
        stem: weights of the first convolution: "float", or "int8", rounded in every forward pass as export rounds them.
        scale: factor of the level set: "none" (the paper's fixed set), one a "layer", one a "channel", or "two-sided" (one a
            layer for positive and one for negative levels; ternary only, and export does not take it).
        classes: number of classes; this and what follows a run takes from its data, whatever is given.
        channels: image channels, from the data.
        zero_point: pixel that becomes 0, from the data.
        pixel_scale: pixels that become 1, from the data.
        model_sha256: of the Python file that makes the network, if one does; a run takes it from the file.
    """

    model: str = "resnet20"
    weights: Weights = "ternary"
    layer_weights: tuple[str, ...] = ()
    activations: Activations = 2
    layer_activations: tuple[str, ...] = ()
    keep_layers: tuple[str, ...] | None = None
    one_bit: Literal["bi-real", "prelu", "threshold", "reactnet"] = "bi-real"
    shortcut: Literal["A", "B", "default"] = "default"
    stem: Literal["float", "int8"] = "float"
    scale: ScaleOption = "channel"
    classes: int = 10
    channels: int = 3
    zero_point: int = 121
    pixel_scale: float = 64.0
    model_sha256: str = ""

    @property
    def source(self) -> ModelSource:
        """Where the network comes from."""
        return model_source(self.model, ARCHITECTURES)

    @property
    def is_one_bit(self) -> bool:
        """Whether activations have 1 bit: the blocks then have a form of their own."""
        return self.activations in (1, "learned-sign")

    def __post_init__(self) -> None:
        many = (1, MOST)
        check_fields(self, classes=many, channels=many, zero_point=(0, 255), pixel_scale=(1e-6, math.inf))
        _check_entries(self.layer_weights, self.layer_activations)
        if self.source.kind != "own":
            _check_elsewhere(self)
        if self.one_bit != "bi-real" and self.activations != 1:
            raise ConfigError(
                f"`one_bit` (={self.one_bit}) is a form of 1-bit `activations`, which are {self.activations} here"
            )
        if self.layer_weights and self.weights == "float":
            raise ConfigError("`layer_weights` needs low-bit `weights`; with float there are no low-bit layers to change")
        if self.scale == "two-sided" and self.weights not in ("ternary", "float"):
            raise ConfigError(f"`scale` (=two-sided) needs ternary weights, not {self.weights}")


def as_bits(text: str) -> int | str:
    """A value of `activations` as words have it: a number of bits, or the name of a quantizer."""
    return int(text) if re.fullmatch("[0-9]{1,4}", text) else text


def _check_entries(weights: tuple[str, ...], activations: tuple[str, ...]) -> None:
    """Refuse entries that are no PATTERN=VALUE."""
    for entry in weights:
        pattern, _, levels = entry.rpartition("=")
        if not pattern or not (levels in (*get_args(Weights), "int8") or has_row("weights", levels)):
            sets = [str(s) for s in dict.fromkeys((*get_args(Weights), "int8", *names_of("weights")))]
            raise ConfigError(f"`layer_weights` (={entry}) must read PATTERN=LEVELS, of {', '.join(sets)}")
    for entry in activations:
        pattern, _, text = entry.rpartition("=")
        if not pattern or not (as_bits(text) in get_args(Activations) or has_row("activations", as_bits(text))):
            kinds = map(str, dict.fromkeys((*get_args(Activations), *names_of("activations"))))
            raise ConfigError(f"`layer_activations` (={entry}) must read PATTERN=BITS, of {', '.join(kinds)}")


def _check_elsewhere(config: ModelConfig) -> None:
    """Refuse what only the package's own ResNets have."""
    for f in fields(config):
        if f.name in ("one_bit", "shortcut", "stem") and (value := getattr(config, f.name)) != f.default:
            remedy = "; --layer-weights NAME=int8 makes a layer's weights 8 bits" if f.name == "stem" else ""
            raise ConfigError(f"`{f.name}` (={value}) is of the package's own ResNets, not of {config.model}{remedy}")


@dataclass(frozen=True)
class DataConfig:
    """Which images to train on; a value that cannot be used raises ConfigError.

    Attributes:
        data: digits, cifar10, cifar100, or the path of a folder train/<class>/* and test/<class>/*.
        data_dir: where torchvision's CIFAR files are, or are put.
        download: download CIFAR if it is not in `data_dir`.
        size: side in pixels to which the images of a folder are resized; 0 keeps theirs, which must then agree.
        holdout: train without this many training images and test on them instead of the test split, to choose options by.
    """

    data: str = "digits"
    data_dir: str = "data"
    download: bool = False
    size: int = 0
    holdout: int = 0

    def __post_init__(self) -> None:
        check_fields(self, size=(0, MAX_SIDE), holdout=(0, MOST))


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move; a value that cannot be used raises ConfigError.

    Attributes:
        method: a row of `bitplane.train.methods`; see `register_method` for others.
        base: wrapped optimizer.
        lr: peak learning rate.
        momentum: of SGD (Nesterov).
        weight_decay: on convolution and classifier weights (the latent ones where they are kept).
        warmup: share of the steps over which the learning rate rises.
        rho_0: sharpness of the quantizer at the first step, for pc, pq and rpc in units of the level set; default: the
            method's own.
        growth: how many times rho_0 the sharpness of pc, pq and rpc has grown by at the end: the paper's schedule
            (1 + t / B) rho_0 with B an epoch of 200, at any number of epochs.
        soft: share of the steps before the quantizer becomes the projector.
        clamp: latent weights stay within this multiple of the top level; a fixed level set always keeps them within 1.
        scale_fit: how scales move; "method" is the method's own way or else least squares.
        average_from: share of the steps from which the iterates are averaged; 1 keeps the last one.
    """

    method: MethodName = "pc"
    base: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.1
    rho_0: float | None = None
    growth: float = 200.0
    soft: float = 0.75
    clamp: float = 3.0
    scale_fit: ScaleFitOption = "method"
    average_from: float = 1.0

    def __post_init__(self) -> None:
        share, positive = (0, 1), (0, math.inf)
        check_fields(
            self,
            lr=positive,
            momentum=share,
            weight_decay=positive,
            warmup=share,
            rho_0=positive,
            growth=positive,
            soft=share,
            clamp=(1, math.inf),
            average_from=share,
        )


@dataclass(frozen=True)
class RecipeConfig:
    """What is added to plain training; a value that cannot be used raises ConfigError.

    Attributes:
        teacher: finished run whose network's logits are learned too (Hinton et al., 2015).
        distillation: weight of the teacher's loss; the labels' loss has the rest.
        temperature: of the teacher's loss.
        label_smoothing: share of the label that is spread over all classes.
        earlier_bits: bits of the activations before the final ones, each for an equal part of the first half of the steps.
        reestimate: training batches from which BatchNorm's statistics are taken again at the final weights; 0 keeps the running
            ones.
    """

    teacher: str = ""
    distillation: float = 0.5
    temperature: float = 4.0
    label_smoothing: float = 0.0
    earlier_bits: tuple[int, ...] = ()
    reestimate: int = 0

    def __post_init__(self) -> None:
        share, many = (0, 1), (0, MOST)
        check_fields(self, distillation=share, temperature=(1e-3, math.inf), label_smoothing=share, reestimate=many)
        for bits in self.earlier_bits:
            if not 2 <= bits <= 8:
                raise ConfigError(f"`earlier_bits` (={bits}) must be between 2 and 8")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run; a value that cannot be used raises ConfigError.

    Attributes:
        model: the network; classes, channels and normalization come from the data.
        data: the images.
        optimizer: how weights move.
        recipe: what is added.
        epochs: passes over the training images.
        batch_size: images an optimizer step, over all processes and accumulated parts.
        accumulate: parts of a batch whose gradients are added before a step.
        seed: of initialization, order, augmentation and random quantizers.
        mixed_precision: of the forward pass; weights, latents and statistics stay float32.
        eval_every: epochs between two tests; the last epoch is always tested.
        save_every: epochs between two checkpoints; the last epoch always has one.
        keep: checkpoints kept for resuming.
        tracker: where losses and accuracies also go, by Accelerate: "none", tensorboard, wandb and so on.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    eval_every: int = 1
    save_every: int = 1
    keep: int = 2
    tracker: str = "none"

    def __post_init__(self) -> None:
        many = (1, MOST)
        check_fields(
            self,
            epochs=many,
            batch_size=many,
            accumulate=many,
            seed=(0, 2**32 - 1),
            eval_every=many,
            save_every=many,
            keep=many,
        )


def to_options(config: TrainConfig) -> dict[str, Any]:
    """All fields of a configuration in one dictionary."""
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    nested = {k: v for part in parts.values() if is_dataclass(part) for k, v in asdict(part).items()}  # type: ignore[arg-type]
    return nested | {k: v for k, v in parts.items() if not is_dataclass(v)}


def from_options(values: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
    """The configuration `base` (default: all defaults) with some fields changed.

    Args:
        values: field name to value; lists count as tuples.
        base: the rest of the fields.

    Raises:
        ConfigError: a field is unknown or has a value that cannot be used.
    """
    config = base or TrainConfig()
    left = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    changed: dict[str, Any] = {}
    for f in fields(config):
        part = getattr(config, f.name)
        if is_dataclass(part) and not isinstance(part, type):
            own = {g.name: left.pop(g.name) for g in fields(part) if g.name in left}
            changed[f.name] = replace(part, **own)
        elif f.name in left:
            changed[f.name] = left.pop(f.name)
    if left:
        raise ConfigError(f"`{next(iter(left))}` is not an option of a run; they are {', '.join(to_options(config))}")
    return replace(config, **changed)
