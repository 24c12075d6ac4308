"""The training loop: `train` says what happens in a run, `_train_epoch` what happens in an epoch.

State between steps: the model's parameters are the rule's gradient point, the latent weights (where kept) are in the
optimizer. An epoch ends with a line in RUN/log.jsonl, every `save_every`th with a checkpoint, every `eval_every`th with a
test at the projected weights; the run ends with RUN/final.

Everything random follows from the seed and the number of the epoch or step, so that a run that was killed and resumed from
its newest checkpoint ends with the weights it would have had, bit for bit on a CPU.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from tqdm import tqdm

from bitplane.atomic import remove_folder
from bitplane.train.activations import start_steps
from bitplane.train.checkpoint import (
    checkpoints,
    newest_checkpoint,
    read_config,
    read_result,
    save_checkpoint,
    write_config,
    write_folder,
    writing,
)
from bitplane.train.config import TrainConfig, to_options
from bitplane.train.cuda_graph import GraphedPass
from bitplane.train.data import Dataset, load_data
from bitplane.train.data.dataset import with_data
from bitplane.train.errors import CheckpointError, TrainingError, enough_memory
from bitplane.train.evaluation import evaluate, final_weights
from bitplane.train.methods import method_of
from bitplane.train.models import ResNet
from bitplane.train.models.elsewhere import check_known
from bitplane.train.models.python_file import check_named, read_python, with_digest
from bitplane.train.resume import Progress, optimizer_tensors, restore
from bitplane.train.run_folder import append_to_log, held, shorten_log, write_about
from bitplane.train.schedules import warmup_cosine
from bitplane.train.setup import Session, reestimated_batches, set_up

CHECK_EVERY = 50
"""Steps between two looks at whether the loss was finite: each look waits for the device."""


def train(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    progress: bool = True,
    data: Dataset | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a network.

    Args:
        config: the run; ignored in favor of the stored one if `resume`, but for the Python file that its `model` names: the one
            that a run's folder names is not run.
        run: folder to write to; one process (or one group of `accelerate launch`) at a time.
        resume: go on from the newest checkpoint of `run`.
        init: a finished run whose weights to start from, or a safetensors file of them (torchvision's names);
            `load_weights` says what may differ. Ignored if `resume`.
        progress: show a progress bar.
        data: what `load_data(config.data)` gives, if it is loaded already.
        say: takes lines about a run that begins: a table of what became of each layer, and what `init` did not have; by default
            the latter alone is printed.

    Returns:
        What RUN/final/result.json holds: "test_top1" and "train_top1" (shares), the last losses, "epochs", "classes",
        "dataset", "seconds" of training, "device" and "torch".

    Raises:
        CheckpointError, ConfigError, DataError, OutOfMemoryError, RunTakenError, TrainingError: see the messages.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as Accelerator makes it
    with held(run) if state.is_main_process else nullcontext():
        return train_held(config, run, resume=resume, init=init, progress=progress, data=data, say=say)


def train_held(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    progress: bool = True,
    data: Dataset | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`train` for a caller that holds the folder of the run already."""
    with enough_memory(f"{run}: training"):
        session = _session(config, run, data, init, resume)
        state = _resume(session) if resume else _begin(session, say)
        _train_epochs(session, state, progress)
        return dict(read_result(run))


def _session(config: TrainConfig, run: Path, data: Dataset | None, init: Path | None, resume: bool) -> Session:
    """The parts of a run, its options and names checked before its data are loaded."""
    _check_folder(run, resume)
    code = read_python(config.model)
    config = read_config(run) if resume else with_digest(config, code)
    if resume:
        check_named(config.model, code, run)
    check_known(config.model)
    method_of(config.optimizer, config.model)
    data = data or load_data(config.data)
    session = set_up(with_data(config, data), run, data, init, resume=resume, code=code)
    session.accelerator.wait_for_everyone()  # all have looked at the folder before it is written
    return session


def _train_epochs(session: Session, state: Progress, progress: bool) -> None:
    compute = TrainingPass(session)
    tracker = session.config.tracker != "none"
    if tracker:
        options = {k: v if isinstance(v, int | float | str) else str(v) for k, v in to_options(session.config).items()}
        with writing(session.run):
            session.accelerator.init_trackers("training", options)
    for epoch in range(state.epoch, session.config.epochs):
        entry = _train_epoch(session, compute, state, epoch, progress)
        _finish_epoch(session, state, entry)
    if tracker:
        with writing(session.run):
            session.accelerator.end_training()


class TrainingPass:
    """Forward and backward pass of a slice of a batch, and the step that follows.

    Args:
        session: the run; its network and optimizer are given to Accelerate here.
    """

    def __init__(self, session: Session) -> None:
        self.accelerator, self.loss = session.accelerator, session.loss
        self.network, self.optimizer = self.accelerator.prepare(session.model, session.optimizer)
        config, device = session.config, self.accelerator.device
        # A graph holds neither communication between processes, nor sums of gradients, nor float16's checks of them.
        alone = self.accelerator.num_processes == config.accumulate == 1 and config.mixed_precision != "fp16"
        # The forward of a network from elsewhere may look at values, which a graph cannot hold.
        graphs = device.type == "cuda" and alone and isinstance(session.model, ResNet)
        self.graph = GraphedPass(self._gradients, session.model) if graphs else None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gradients of a slice, and the optimizer's step after the last slice of a batch.

        Args:
            images: uint8 [B, C, H, W].
            labels: int64 [B].

        Returns:
            Float32 [2]: mean loss and share of correct images; the next call may overwrite it.
        """
        with self.accelerator.accumulate(self.network):
            result = (self.graph or self._gradients)(images, labels)
            self.optimizer.step()
        return result

    def forget_graph(self) -> None:
        """The network computes in another way from now on."""
        if self.graph is not None:
            self.graph.forget()

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.network(images)
        loss = self.loss(logits, images, labels)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).float().mean()])


def _check_folder(run: Path, resume: bool) -> None:
    with writing(run):
        stored = (run / "config.json").exists()
    if resume and not stored:
        raise CheckpointError(f"{run}: holds no run to resume; leave out --resume to start one")
    if not resume and stored:
        raise CheckpointError(f"{run}: holds a run already; add --resume to go on, or choose another folder")
    if not resume and any(p.name != "epoch-0000" for p in checkpoints(run)):
        raise CheckpointError(f"{run}: holds checkpoints of a run without its config.json; choose another folder")


def _begin(session: Session, say: Callable[[str], None] | None) -> Progress:
    """Write a run's start. The configuration is written last: a folder that has one can be resumed."""
    state = Progress(processes=session.accelerator.num_processes, bits=session.bits(0))
    if session.accelerator.is_main_process:
        run, new = session.run, not session.run.exists()
        table = str(session.model.preparation).splitlines() if say is not None else []
        for line in (*table, *session.notes):
            (say or tqdm.write)(line)
        try:
            _save(session, state)
            write_about(run, session.model.preparation, session.code)
            write_config(run, session.config)
        except CheckpointError:
            if new:
                with suppress(OSError):
                    remove_folder(run)
            raise
    return state


def _resume(session: Session) -> Progress:
    state = restore(session.model, session.optimizer, newest_checkpoint(session.run), session.accelerator.num_processes)
    if session.accelerator.is_main_process:
        shorten_log(session.run, state.epoch)
    return state


def _save(session: Session, state: Progress) -> None:
    tensors = optimizer_tensors(session.model, session.optimizer)
    save_checkpoint(session.run, state.epoch, session.model.state_dict(), tensors, asdict(state), session.config.keep)


def _train_epoch(s: Session, compute: TrainingPass, state: Progress, epoch: int, progress: bool) -> dict[str, Any]:
    """Take the steps of an epoch.

    Returns:
        "epoch" (from 1), "train_loss" and "train_top1", means over all processes.
    """
    started, accumulate = time.perf_counter(), s.config.accumulate
    # Dropout draws from torch's own generator: other numbers in each epoch and process, and the same ones after a resume.
    torch.manual_seed(s.config.seed * 1_000_003 + epoch + (s.accelerator.process_index << 53))
    compute.network.train()
    seen = torch.zeros(len(s.loader) * accumulate, 2, device=s.accelerator.device)  # loss, share of correct images
    show = progress and s.accelerator.is_local_main_process
    title = f"epoch {epoch + 1}/{s.config.epochs}"
    with tqdm(total=len(s.loader), desc=title, leave=False, disable=None if show else True) as bar:
        for i, (images, labels) in enumerate(s.loader.epoch(epoch)):
            step = epoch * len(s.loader) + i // accumulate
            if i % accumulate == 0:
                _begin_step(s, compute, state, step, images)
            seen[i] = compute(images, labels)
            if (i + 1) % accumulate == 0:
                bar.update()
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == (epoch + 1) * len(s.loader):
                    _stop_if_not_finite(s, seen[: i + 1, 0], epoch)
    mean: Tensor = s.accelerator.reduce(seen.mean(0), "mean")  # type: ignore[assignment]
    state.epoch, state.step, state.average_weight = epoch + 1, s.optimizer.step_count, s.optimizer.average_weight
    entry = {"epoch": epoch + 1, "train_loss": mean[0].item(), "train_top1": mean[1].item()}
    state.seconds += time.perf_counter() - started
    return entry


def _begin_step(s: Session, compute: TrainingPass, state: Progress, step: int, images: Tensor) -> None:
    """Bits of activations and learning rate of a step; `images` is the first slice of its batch."""
    bits = s.bits(step)
    if state.bits != bits:
        state.bits = bits
        compute.forget_graph()
        alone = s.accelerator.num_processes == s.config.accumulate == 1
        start_steps(s.model, images if alone else s.loader.whole_batch(*divmod(step, len(s.loader))), bits)
    lr = warmup_cosine(step, s.steps, s.config.optimizer.lr, round(s.config.optimizer.warmup * s.steps))
    for group in s.optimizer.param_groups:
        group["lr"] = lr


def _stop_if_not_finite(s: Session, losses: Tensor, epoch: int) -> None:
    """Stop the run, in all processes, if one of an epoch's losses so far, float32 [slices], is not finite in any of them."""
    slices = torch.arange(float(len(losses)), device=losses.device)
    first = torch.where(losses.isfinite(), math.inf, slices).min()
    bad = s.accelerator.gather((first[None] / s.config.accumulate).floor()).min().item()  # type: ignore[union-attr]
    if math.isfinite(bad):
        raise TrainingError(
            f"{s.run}: the loss was not finite at step {epoch * len(s.loader) + int(bad)} (epoch {epoch + 1}); the last good"
            f" checkpoint is {checkpoints(s.run)[-1]}; train into another folder with a lower --lr"
        )


def _finish_epoch(s: Session, state: Progress, entry: dict[str, Any]) -> None:
    """Test, log and save an epoch, as often as the run asks for; the last one always, and its weights become RUN/final."""
    main, epoch, device = s.accelerator.is_main_process, state.epoch, s.accelerator.device
    last = epoch == s.config.epochs
    if last or epoch % s.config.eval_every == 0:
        with final_weights(s.model, s.optimizer, s.loader, reestimated_batches(s.config) if last else 0):
            if main:
                entry |= evaluate(s.model, s.data.test, device)
            if main and last:
                _write_final(s, entry | {"seconds": round(state.seconds, 1), "device": _device_name(device)})
    figures = {k: v for k, v in entry.items() if k != "epoch"}
    if s.config.tracker != "none":
        with writing(s.run):
            s.accelerator.log(figures | {"lr": s.optimizer.param_groups[0]["lr"]}, step=epoch)
    if main:
        append_to_log(s.run, entry)
        shown = (f"{k} {100 * v:.2f} %" if k.endswith("top1") else f"{k} {v:.4f}" for k, v in figures.items())
        tqdm.write(f"epoch {epoch:3d}  " + "  ".join(shown))
        if last or epoch % s.config.save_every == 0:
            _save(s, state)
    s.accelerator.wait_for_everyone()


def _write_final(s: Session, entry: dict[str, Any]) -> None:
    figures = {k: v for k, v in entry.items() if k != "epoch"}
    about = {"epochs": entry["epoch"], "classes": list(s.data.classes), "dataset": s.data.name, "torch": torch.__version__}
    write_folder(s.run / "final", {"model": s.model.state_dict()}, {"result": figures | about})


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"
