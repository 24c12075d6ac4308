"""The training loop: one function that reads from top to bottom.

State between steps: the model's parameters are the rule's gradient point, the latent weights (where kept) are in the
optimizer. An epoch ends with a line in RUN/log.jsonl, every `save_every`th with a checkpoint, every `eval_every`th with a
test at the projected weights; the run ends with RUN/final.

Everything random follows from the seed and the number of the epoch or step, so that a run that was killed and resumed from
its newest checkpoint ends with the weights it would have had, bit for bit on a CPU.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bitplane.train.activations import start_steps
from bitplane.train.checkpoint import (
    load_final,
    load_weights,
    newest_checkpoint,
    read_config,
    read_json,
    save_checkpoint,
    with_data,
    write_config,
    write_folder,
)
from bitplane.train.config import TrainConfig, to_options
from bitplane.train.cuda_graph import GraphedPass
from bitplane.train.data import Dataset, Split, load_data
from bitplane.train.data.augment import BatchLoader
from bitplane.train.distributed import synchronize_batch_norm
from bitplane.train.errors import CheckpointError, ConfigError, TrainingError
from bitplane.train.latents import Target
from bitplane.train.losses import Loss
from bitplane.train.methods import METHODS, Point, method_of, scale_fit
from bitplane.train.models import ResNet, build_model
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.resume import Progress, optimizer_tensors, restore
from bitplane.train.schedules import Sharpness, warmup_cosine

CHECK_EVERY = 50  # steps between two looks at whether the loss was finite: each look waits for the device


def train(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    progress: bool = True,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """Train a network.

    Args:
        config: the run; ignored in favor of the stored one if `resume`.
        run: folder to write to.
        resume: go on from the newest checkpoint of `run`.
        init: a finished run whose weights to start from, or a safetensors file of them (torchvision's names);
            `load_weights` says what may differ.
        progress: show a progress bar.
        data: what `load_data(config.data)` gives, if it is loaded already.

    Returns:
        What RUN/final/result.json holds: "test_top1", "epochs", "classes", "dataset", the last losses, "seconds" of training,
        "device" and "torch".

    Raises:
        CheckpointError, ConfigError, DataError, TrainingError: see the messages.
    """
    if not resume and (run / "config.json").exists():
        raise CheckpointError(f"{run}: holds a run already; add --resume to go on, or choose another folder")
    config = read_config(run) if resume else config
    method_of(config.optimizer, config.model)  # refuses what does not go together, before data are loaded
    data = data or load_data(config.data)
    config = with_data(config, len(data.classes), data.train.images.shape[1], data.zero_point, data.pixel_scale)
    accelerator = _accelerator(config, run)
    world, device = accelerator.num_processes, accelerator.device

    torch.backends.cudnn.benchmark = device.type == "cuda"  # batches are of one shape
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if init is not None and not resume:
        load_weights(model, init if init.suffix == ".safetensors" else init / "final" / "model.safetensors", lenient=True)
        for layer in model.low_bit_layers().values():
            layer.fit_scale()
    if world > 1:
        synchronize_batch_norm(model, device)
    model = model.to(memory_format=torch.channels_last).to(device)  # pyright: ignore[reportCallIssue]
    loader = BatchLoader(data, config.batch_size, device, config.seed, accelerator.process_index, world, config.accumulate)
    loss_of = Loss(config.recipe, _teacher(config, accelerator))
    total = config.epochs * len(loader)
    stages = _bit_stages(config, total)
    state = Progress(processes=world, bits=stages[0][1])
    if not resume:
        start_steps(model, next(loader.epoch(0, whole=True))[0], state.bits or None)
    optimizer = make_optimizer(model, config, total)
    if resume:
        state = restore(model, optimizer, newest_checkpoint(run), world)
    if accelerator.is_main_process:
        if resume:
            _shorten_log(run / "log.jsonl", state.epoch)
        else:
            write_config(run, config)
    wrapped, stepper = accelerator.prepare(model, optimizer)

    def compute(images: Tensor, labels: Tensor) -> Tensor:
        # Gradients of a slice of a batch; returns its loss and share of correct images.
        logits = wrapped(images)
        loss = loss_of(logits, images, labels)
        stepper.zero_grad()
        accelerator.backward(loss)
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).float().mean()])

    graphed = _graphed(compute, model, accelerator, config)
    if config.tracker != "none":
        accelerator.init_trackers(
            "training", {k: v if isinstance(v, int | float | str) else str(v) for k, v in to_options(config).items()}
        )

    warmup = round(config.optimizer.warmup * total)
    for epoch in range(state.epoch, config.epochs):
        started = time.perf_counter()
        wrapped.train()
        seen = torch.zeros(len(loader) * config.accumulate, 2, device=device)  # loss, correct
        show = progress and accelerator.is_local_main_process
        bar = tqdm(total=len(loader), desc=f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=None if show else True)
        for i, (images, labels) in enumerate(loader.epoch(epoch)):
            step = epoch * len(loader) + i // config.accumulate
            if i % config.accumulate == 0:
                if state.bits != (bits := next(b for until, b in stages if step < until)):
                    state.bits = bits
                    if graphed is not None:
                        graphed.forget()
                    start_steps(model, images if world == config.accumulate == 1 else _batch(loader, epoch, step), bits)
                lr = warmup_cosine(step, total, config.optimizer.lr, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = lr
            with accelerator.accumulate(wrapped):
                seen[i] = (graphed or compute)(images, labels)
                stepper.step()
            if (i + 1) % config.accumulate == 0:
                bar.update()
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == (epoch + 1) * len(loader):
                    first = torch.where(seen[: i + 1, 0].isfinite(), math.inf, torch.arange(i + 1.0, device=device)).min()
                    step_of = epoch * len(loader) + (first[None] / config.accumulate).floor()  # inf // 1 would be NaN
                    _stop_if_not_finite(accelerator.gather(step_of), run, len(loader))  # type: ignore[arg-type]
        bar.close()
        mean: Tensor = accelerator.reduce(seen.mean(0), "mean")  # type: ignore[assignment]
        entry = {"epoch": epoch + 1, "train_loss": mean[0].item(), "train_top1": mean[1].item()}
        last = epoch + 1 == config.epochs
        state.epoch, state.step, state.average_weight = epoch + 1, optimizer.step_count, optimizer.average_weight
        state.seconds += time.perf_counter() - started
        if last or (epoch + 1) % config.eval_every == 0:
            with _final_weights(model, optimizer, loader, _reestimated(config) if last else 0):
                if accelerator.is_main_process:
                    entry |= evaluate(model, data.test, device)
                if last and accelerator.is_main_process:
                    _finish(run, model, data, entry | {"seconds": round(state.seconds, 1), "device": _device_name(device)})
        if config.tracker != "none":
            accelerator.log(
                {k: v for k, v in entry.items() if k != "epoch"} | {"lr": optimizer.param_groups[0]["lr"]}, step=epoch + 1
            )
        if accelerator.is_main_process:
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            tqdm.write(f"epoch {epoch + 1:3d}  " + "  ".join(f"{k} {v:.4f}" for k, v in entry.items() if k != "epoch"))
            if last or (epoch + 1) % config.save_every == 0:
                tensors = optimizer_tensors(model, optimizer)
                save_checkpoint(run, epoch + 1, model.state_dict(), tensors, asdict(state), config.keep)
        accelerator.wait_for_everyone()
    if config.tracker != "none":
        accelerator.end_training()
    return dict(read_json(run / "final" / "result.json"))


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: torch.device, batch_size: int = 500) -> dict[str, float]:
    """Mean cross-entropy and top-1 accuracy of `model` on `split`, in float32."""
    model.eval()
    loss, correct = torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
            logits = model(images.to(device, memory_format=torch.channels_last)).float()
            y = labels.to(device)
            loss += functional.cross_entropy(logits, y, reduction="sum")
            correct += (logits.argmax(1) == y).sum()
    return {"test_loss": loss.item() / len(split.labels), "test_top1": correct.item() / len(split.labels)}


@torch.no_grad()
def reestimate_statistics(model: nn.Module, loader: BatchLoader, batches: int) -> None:
    """Replace BatchNorm's running statistics by means over training batches at the present weights.

    Every process must call it: each computes its own slices.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a cumulative average
    model.train()
    for images, _ in itertools.islice(loader.epoch(0), batches):
        model(images)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def make_optimizer(model: ResNet, config: TrainConfig, total: int) -> ProxOptimizer:
    """The optimizer of a run of `total` steps over a model's parameters, and its learned scales."""
    o, method = config.optimizer, method_of(config.optimizer, config.model)
    fit = scale_fit(o, config.model)
    layers = model.low_bit_layers().values()
    targets = [Target(m.weight, m.levels, m.level_scale, m.scale_option, fit) for m in layers]
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1] + [t.scale for t in targets if t.learned]
    groups = [{"params": decay, "weight_decay": o.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    base: torch.optim.Optimizer
    fused = decay[0].device.type == "cuda"  # one launch instead of a handful
    if o.base == "sgd":
        base = torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=o.momentum > 0, fused=fused)
    else:
        base = torch.optim.Adam(groups, lr=o.lr, fused=fused)
    first = method.first if o.rho_0 is None else o.rho_0
    hard_from = max(1, round(o.soft * total))
    schedule = Sharpness(method.form, first, method.last, total / max(o.growth, 1e-9), hard_from)
    clamp = o.clamp if config.model.scale != "none" else 1.0
    average = round(o.average_from * total) if o.average_from < 1 else None
    return ProxOptimizer(base, targets, method, schedule, clamp=clamp, average_from=average, seed=config.seed)


@contextmanager
def _final_weights(model: ResNet, optimizer: ProxOptimizer, loader: BatchLoader, batches: int) -> Iterator[None]:
    # The network as it would be exported now; afterwards everything is as before.
    statistics = {k: v.clone() for k, v in model.state_dict().items() if "running_" in k or "num_batches" in k}
    with optimizer.projected():
        if batches:
            reestimate_statistics(model, loader, batches)
        yield
    model.load_state_dict(statistics, strict=False)


def _reestimated(config: TrainConfig) -> int:
    # Where training ran at other weights than the final ones, BatchNorm's running statistics do not belong to them.
    elsewhere = METHODS[config.optimizer.method].rule.gradient_at is Point.LATENT or config.optimizer.average_from < 1
    low_bit = config.model.weights != "float"
    return config.recipe.reestimate or (50 if elsewhere and low_bit else 0)


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


def _graphed(
    compute: Callable[[Tensor, Tensor], Tensor], model: ResNet, accelerator: Accelerator, config: TrainConfig
) -> GraphedPass | None:
    # A graph holds neither communication between processes, nor sums of gradients, nor float16's checks of them.
    alone = accelerator.num_processes == config.accumulate == 1 and config.mixed_precision != "fp16"
    return GraphedPass(compute, model) if accelerator.device.type == "cuda" and alone else None


def _teacher(config: TrainConfig, accelerator: Accelerator) -> nn.Module | None:
    if not config.recipe.teacher:
        return None
    model, _, _ = load_final(Path(config.recipe.teacher))
    classes = model.config.classes
    if classes != config.model.classes:
        raise ConfigError(f"`teacher` (={config.recipe.teacher}) knows {classes} classes, the data have {config.model.classes}")
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return accelerator.prepare_model(model, evaluation_mode=True)


def _bit_stages(config: TrainConfig, total: int) -> list[tuple[float, int]]:
    # (first step after the stage, bits of the learned steps; 0 where there are none)
    bits, earlier = config.model.activations, config.recipe.earlier_bits
    if bits not in (8, 4, 2):
        if earlier:
            raise ConfigError(f"`earlier_bits` (={earlier}) needs activations of 2, 4 or 8 bits, not {bits}")
        return [(math.inf, 0)]
    return [(total * (i + 1) / len(earlier) / 2, b) for i, b in enumerate(earlier)] + [(math.inf, bits)]


def _shorten_log(path: Path, epochs: int) -> None:
    # The epoch after the newest checkpoint may have been logged before the run was killed.
    lines = path.read_text().splitlines(keepends=True)[:epochs] if path.exists() else []
    temporary = path.with_name(".log.jsonl.tmp")
    temporary.write_text("".join(lines))
    temporary.replace(path)


def _batch(loader: BatchLoader, epoch: int, step: int) -> Tensor:
    return next(itertools.islice(loader.epoch(epoch, whole=True), step % len(loader), None))[0]


def _stop_if_not_finite(first_bad: Tensor, run: Path, steps_per_epoch: int) -> None:
    step = first_bad.min().item()
    if math.isfinite(step):
        kept = sorted((run / "checkpoints").glob("epoch-*"))
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise TrainingError(
            f"{run}: the loss was not finite at step {step:.0f} (epoch {int(step) // steps_per_epoch + 1}); {last};"
            " train into another folder with a lower --lr"
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"


def _finish(run: Path, model: ResNet, data: Dataset, entry: dict[str, Any]) -> None:
    epochs = entry.pop("epoch")
    result = {**entry, "epochs": epochs, "classes": list(data.classes), "dataset": data.name, "torch": torch.__version__}
    write_folder(run / "final", {"model": model.state_dict()}, {"result": result})
