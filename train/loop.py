"""The training loop: one function that reads from top to bottom.

State between steps: the model's parameters are the rule's gradient point, the latent weights (where kept) are in the
optimizer. An epoch ends with a test at the projected weights, a line in RUN/log.jsonl and a checkpoint; the run ends with
RUN/final.
"""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bitplane.train.checkpoint import (
    load_weights,
    newest_checkpoint,
    read_config,
    read_json,
    read_tensors,
    save_checkpoint,
    with_data,
    write_config,
    write_folder,
)
from bitplane.train.config import TrainConfig
from bitplane.train.data import Dataset, Split, load_data
from bitplane.train.data.augment import BatchLoader
from bitplane.train.errors import CheckpointError, ConfigError, DataError
from bitplane.train.models import ResNet, build_model
from bitplane.train.rules import RULES, Point, ProxOptimizer, RhoSchedule, Target
from bitplane.train.schedules import warmup_cosine


def train(
    config: TrainConfig, run: Path, *, resume: bool = False, init: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train a network.

    Args:
        config: the run; ignored in favor of the stored one if `resume`.
        run: folder to write to.
        resume: go on from the newest checkpoint of `run`.
        init: a finished run whose weights to start from, or a safetensors file of them (torchvision's names).
        progress: show a progress bar.

    Returns:
        What RUN/final/result.json holds: "test_top1", "epochs", "classes", "dataset" and the last losses.

    Raises:
        CheckpointError, ConfigError, DataError: see the messages.
    """
    if not resume and (run / "config.json").exists():
        raise CheckpointError(f"{run}: holds a run already; add --resume to go on, or choose another folder")
    config = read_config(run) if resume else config
    data = load_data(config.data)
    if len(data.test.labels) == 0 or len(data.train.labels) < 2:
        raise DataError(f"{config.data.name}: needs at least 2 training images and 1 test image")
    config = with_data(config, len(data.classes), data.train.images.shape[1], data.zero_point, data.pixel_scale)
    if config.epochs < 1:
        raise ConfigError(f"`epochs` (={config.epochs}) must be at least 1")

    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if init is not None and not resume:
        load_weights(model, init if init.suffix == ".safetensors" else init / "final" / "model.safetensors", lenient=True)
        for layer in model.low_bit_layers().values():
            layer.fit_scale()
    model = model.to(memory_format=torch.channels_last).to(accelerator.device)  # pyright: ignore[reportCallIssue]
    loader = BatchLoader(
        data, config.batch_size, accelerator.device, config.seed, accelerator.process_index, accelerator.num_processes
    )
    total = config.epochs * len(loader)
    optimizer = _optimizer(model, config, total, len(loader))
    start = 0
    if resume:
        start = _restore(model, optimizer, newest_checkpoint(run))
    elif accelerator.is_main_process:
        write_config(run, config)
    wrapped, stepper = accelerator.prepare(model, optimizer)

    entry: dict[str, Any] = {}
    for epoch in range(start, config.epochs):
        wrapped.train()
        loss_sum = torch.zeros((), device=accelerator.device)
        correct = torch.zeros((), device=accelerator.device)
        show = progress and accelerator.is_main_process
        bar = tqdm(loader.epoch(epoch), f"epoch {epoch + 1}/{config.epochs}", len(loader), leave=False, disable=not show)
        for i, (images, labels) in enumerate(bar):
            lr = warmup_cosine(epoch * len(loader) + i, total, config.optimizer.lr, round(config.optimizer.warmup * total))
            for group in optimizer.param_groups:
                group["lr"] = lr
            logits = wrapped(images)
            loss = functional.cross_entropy(logits.float(), labels)
            stepper.zero_grad()
            accelerator.backward(loss)
            stepper.step()
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).float().mean()
        entry = {"epoch": epoch + 1, "train_loss": loss_sum.item() / len(loader), "train_top1": correct.item() / len(loader)}
        if not torch.isfinite(loss_sum):
            raise ConfigError(
                f"{run}: the loss is no longer finite in epoch {epoch + 1}; resume with, or start at, a lower --optimizer.lr"
            )
        if accelerator.is_main_process:
            last = epoch + 1 == config.epochs
            statistics = _statistics(model)
            with optimizer.projected():
                if RULES[config.optimizer.method].gradient_at is Point.LATENT and last:
                    reestimate_statistics(model, loader)
                entry |= evaluate(model, data.test, accelerator.device)
                if last:
                    _finish(run, model, data, entry, epoch + 1)
            _restore_statistics(model, statistics)
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            tqdm.write(f"epoch {epoch + 1:3d}  " + "  ".join(f"{k} {v:.4f}" for k, v in entry.items() if k != "epoch"))
            save_checkpoint(
                run,
                epoch + 1,
                model.state_dict(),
                _optimizer_tensors(model, optimizer),
                _state(optimizer, epoch + 1),
                config.keep,
            )
        accelerator.wait_for_everyone()
    return dict(read_json(run / "final" / "result.json"))


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: torch.device, batch_size: int = 500) -> dict[str, float]:
    """Mean cross-entropy and top-1 accuracy of `model` on `split`, in float32."""
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        logits = model(images.to(device, memory_format=torch.channels_last)).float()
        y = labels.to(device)
        loss += functional.cross_entropy(logits, y, reduction="sum").item()
        correct += int((logits.argmax(1) == y).sum())
    return {"test_loss": loss / len(split.labels), "test_top1": correct / len(split.labels)}


@torch.no_grad()
def reestimate_statistics(model: nn.Module, loader: BatchLoader, batches: int = 50) -> None:
    """Replace BatchNorm's running statistics by means over training batches at the present weights."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a cumulative average
    model.train()
    for i, (images, _) in enumerate(loader.epoch(0)):
        if i == batches:
            break
        model(images)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _optimizer(model: ResNet, config: TrainConfig, total: int, steps_per_epoch: int) -> ProxOptimizer:
    o = config.optimizer
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": o.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    base: torch.optim.Optimizer
    if o.base == "sgd":
        base = torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=o.momentum > 0)
    else:
        base = torch.optim.Adam(groups, lr=o.lr)
    targets = [Target(m.weight, m.levels, m.level_scale, m.scale_option != "none") for m in model.low_bit_layers().values()]
    schedule = RhoSchedule(o.rho_0, steps_per_epoch, round(o.soft * total))
    return ProxOptimizer(base, targets, RULES[o.method], schedule, o.clamp if config.model.scale != "none" else 1.0)


def _optimizer_tensors(model: ResNet, optimizer: ProxOptimizer) -> dict[str, Tensor]:
    # ProxOptimizer's state is keyed by parameter: on disk it is keyed by name.
    tensors = {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, p in model.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
        if value is not None
    }
    latent = {f"{name}/latent": optimizer.latent[p] for name, p in model.named_parameters() if p in optimizer.latent}
    return tensors | latent


def _state(optimizer: ProxOptimizer, epoch: int) -> dict[str, int]:
    return {"epoch": epoch, "step": optimizer.step_count}


def _restore(model: ResNet, optimizer: ProxOptimizer, folder: Path) -> int:
    load_weights(model, folder / "model.safetensors")
    state = read_json(folder / "state.json")
    parameters = dict(model.named_parameters())
    for key, value in read_tensors(folder / "optimizer.safetensors").items():
        name, _, field = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"{folder / 'optimizer.safetensors'}: `{name}` is not a parameter of {model.config.model}")
        parameter = parameters[name]
        if field == "latent":
            optimizer.latent[parameter] = value.to(parameter.device)
        else:
            optimizer.state[parameter][field] = value.to(parameter.device)
    optimizer.step_count = int(state["step"])
    return int(state["epoch"])


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if "running_" in k or "num_batches" in k}


def _restore_statistics(model: nn.Module, values: dict[str, Tensor]) -> None:
    model.load_state_dict(values, strict=False)


def _finish(run: Path, model: ResNet, data: Dataset, entry: dict[str, Any], epochs: int) -> None:
    result = {**entry, "epochs": epochs, "classes": list(data.classes), "dataset": data.name}
    write_folder(run / "final", {"model": model.state_dict()}, {"result": result})
