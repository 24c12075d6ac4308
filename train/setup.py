"""What a run is made of, put together from its configuration: accelerator, network, batches, loss and optimizer."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from torch import nn

from bitplane.train.activations import start_steps
from bitplane.train.config import OptimizerConfig, TrainConfig
from bitplane.train.data.augment import BatchLoader, Share
from bitplane.train.data.dataset import Dataset
from bitplane.train.distributed import synchronize_batch_norm
from bitplane.train.errors import ConfigError
from bitplane.train.layers import low_bit_layers
from bitplane.train.losses import Loss
from bitplane.train.methods import METHODS, Point, method_of
from bitplane.train.models import Model, PixelNetwork, build_model
from bitplane.train.models.elsewhere import check_network
from bitplane.train.models.python_file import PythonFile
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.weights import head_of, load_final, load_weights

LEARNED_BITS = (8, 4, 2)
"""Bits of activations whose step is learned, and which may become fewer while training."""


@dataclass(frozen=True)
class Session:
    """The parts of a run in one process.

    Attributes:
        config: the run, with what its data determine.
        run: its folder.
        data: the images.
        accelerator: devices, processes, precision and trackers.
        model: the network on its device; its parameters are the rule's gradient point between steps.
        loader: batches of the training images.
        loss: of a batch.
        optimizer: moves the parameters, and the learned scales.
        code: the Python file that makes the network, if one does.
        notes: what a user should know before training begins, a line each.
    """

    config: TrainConfig
    run: Path
    data: Dataset
    accelerator: Accelerator
    model: Model
    loader: BatchLoader
    loss: Loss
    optimizer: ProxOptimizer
    code: PythonFile | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Gradient steps of the whole run."""
        return self.config.epochs * len(self.loader)

    def bits(self, step: int) -> int:
        """Bits of the learned activation steps at a gradient step; 0 where there are none."""
        return _bits(self.config, self.steps, step)


def set_up(
    config: TrainConfig, run: Path, data: Dataset, init: Path | None, *, resume: bool, code: PythonFile | None = None
) -> Session:
    """Put the parts of a run together.

    Args:
        config: the run, with what its data determine.
        run: its folder.
        data: the images.
        init: finished run, or safetensors file, whose weights to start from; None: random ones.
        resume: leave weights and activation steps as a checkpoint will find them: neither `init` nor images are looked at.
        code: the Python file that makes the network, if one does.

    Raises:
        CheckpointError, ConfigError: weights of another network, a tracker that is not installed, a batch that cannot be cut,
            or options that do not go together.
    """
    accelerator = _accelerator(config, run)
    _check_earlier_bits(config)
    device, world = accelerator.device, accelerator.num_processes
    torch.backends.cudnn.benchmark = device.type == "cuda"  # batches are of one shape
    torch.manual_seed(config.seed)
    model = build_model(config.model, code)
    if isinstance(model, PixelNetwork):
        check_network(model, data.train.images[:2])
    notes = _start_from(model, init) if init is not None and not resume else ()
    if world > 1:
        synchronize_batch_norm(model, device)
    model = model.to(memory_format=torch.channels_last).to(device)  # pyright: ignore[reportCallIssue]
    share = Share(accelerator.process_index, world, config.accumulate)
    loader = BatchLoader(data, config.batch_size, device, config.seed, share)
    loss = Loss(config.recipe, _teacher(config, accelerator, code))
    steps = config.epochs * len(loader)
    optimizer = make_optimizer(model, config, steps)
    if not resume:
        start_steps(model, loader.whole_batch(0, 0), _bits(config, steps, 0) or None)
    return Session(config, run, data, accelerator, model, loader, loss, optimizer, code, notes)


def _check_earlier_bits(config: TrainConfig) -> None:
    bits, earlier = config.model.activations, config.recipe.earlier_bits
    if earlier and bits not in LEARNED_BITS:
        raise ConfigError(f"`earlier_bits` (={earlier}) needs activations of 2, 4 or 8 bits, not {bits}")
    if earlier and config.model.layer_activations:
        raise ConfigError(f"`earlier_bits` (={earlier}) is for all layers alike; leave out `layer_activations`")


def _start_from(model: Model, init: Path) -> tuple[str, ...]:
    """Give a network the weights of a run or file, and say what it had not."""
    file = init if init.suffix == ".safetensors" else init / "final" / "model.safetensors"
    head, missing = head_of(model), load_weights(model, file, lenient=True)
    for layer in low_bit_layers(model).values():
        layer.fit_scale()
    if f"{head}.weight" not in missing:
        return ()
    return (f"{file}: {head} makes logits of other classes there; it starts at random here",)


def make_optimizer(model: nn.Module, config: TrainConfig, steps: int) -> ProxOptimizer:
    """The optimizer of a run.

    Args:
        model: the network, on its device.
        config: the run.
        steps: gradient steps of the whole run, over which the sharpness grows.

    Raises:
        ConfigError: method, weights and scales do not go together.
    """
    o = config.optimizer
    method_of(o, config.model)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    base = _base_optimizer(o, decay, rest)
    if config.model.weights == "float":
        return ProxOptimizer.of_targets(base, [], METHODS["ptq"], _hard)
    return ProxOptimizer(
        base,
        model,
        o.method,
        steps=steps,
        rho_0=o.rho_0,
        growth=o.growth,
        soft=o.soft,
        clamp=o.clamp,
        scale_fit=o.scale_fit,
        average_from=o.average_from,
        seed=config.seed,
    )


def _hard(step: int) -> float:
    return math.inf


def reestimated_batches(config: TrainConfig) -> int:
    """Training batches from which BatchNorm's statistics are re-estimated for the final weights; 0 keeps the running ones."""
    # Where training ran at other weights than the final ones, the running statistics do not belong to them.
    elsewhere = METHODS[config.optimizer.method].rule.gradient_at is Point.LATENT or config.optimizer.average_from < 1
    low_bit = config.model.weights != "float"
    return config.recipe.reestimate or (50 if elsewhere and low_bit else 0)


def _bits(config: TrainConfig, steps: int, step: int) -> int:
    earlier, last = config.recipe.earlier_bits, config.model.activations
    if last not in LEARNED_BITS or config.model.layer_activations:  # each layer has its own, and keeps them
        return 0
    return next((b for i, b in enumerate(earlier) if step < steps * (i + 1) / len(earlier) / 2), last)


def _base_optimizer(options: OptimizerConfig, decay: list[nn.Parameter], rest: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    fused = decay[0].device.type == "cuda"  # one launch instead of a handful
    if options.base == "adam":
        return torch.optim.Adam(groups, lr=options.lr, fused=fused)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0, fused=fused)


def _accelerator(config: TrainConfig, run: Path) -> Accelerator:
    known = [str(t) for t in LOGGER_TYPE_TO_CLASS]
    if config.tracker not in ("none", *known):
        raise ConfigError(f"`tracker` (={config.tracker}) must be none or one of {', '.join(known)}")
    if config.tracker != "none" and config.tracker not in [str(getattr(t, "value", t)) for t in get_available_trackers()]:
        raise ConfigError(f"`tracker` (={config.tracker}) is not installed: pip install {config.tracker}")
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=run,
    )


def _teacher(config: TrainConfig, accelerator: Accelerator, code: PythonFile | None) -> nn.Module | None:
    if not config.recipe.teacher:
        return None
    model, _, _ = load_final(Path(config.recipe.teacher), code)
    classes = model.config.classes
    if classes != config.model.classes:
        raise ConfigError(f"`teacher` (={config.recipe.teacher}) knows {classes} classes, the data have {config.model.classes}")
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return accelerator.prepare_model(model, evaluation_mode=True)
