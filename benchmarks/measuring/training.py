"""What a method adds to a training step: forward and backward, the plain optimizer, and the optimizer with each method.

The parts take turns in one process, so that ratios hold on a noisy machine. Data: a random batch, uint8 [N, 3, 32, 32].
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional

from bitplane.benchmarks.measuring.timing import interleaved
from bitplane.train.config import ModelConfig, OptimizerConfig, TrainConfig
from bitplane.train.cuda_graph import GraphedPass
from bitplane.train.methods import METHODS
from bitplane.train.models import build_model
from bitplane.train.setup import make_optimizer

STEPS = 1_000_000  # of the schedule: the quantizer stays in its soft stage
PLAIN = "plain"
FORWARD = "forward and backward"


@dataclass(frozen=True)
class PartTime:
    """A part of a training step.

    Attributes:
        part: what is timed.
        ms: milliseconds, median.
        of_step: share of forward, backward and plain optimizer together.
        added: of a method, the share of a step by which it exceeds the plain optimizer; None for other parts.
    """

    part: str
    ms: float
    of_step: float
    added: float | None


def measure_training(
    model: str = "resnet20", batch_size: int = 128, rounds: int = 10, *, compiled: bool = False
) -> list[PartTime]:
    """Time the steps of all methods on a network with float activations.

    Args:
        model: architecture.
        batch_size: images a step.
        rounds: turns each part gets.
        compiled: forward and backward also as torch.compile makes them, where it finds a compiler: takes a minute.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = _random_batch(batch_size, device)
    plain = _TrainingStep(_config(model, PLAIN), batch)
    parts = {FORWARD: plain.compute, "plain optimizer": plain.update}
    parts |= {method: _TrainingStep(_config(model, method), batch).update for method in METHODS}
    parts[f"{FORWARD}, bfloat16"] = _TrainingStep(_config(model, PLAIN), batch, bfloat16=True).compute
    if device.type == "cuda":
        graphed = _TrainingStep(_config(model, PLAIN), batch, bfloat16=True, graphed=True)
        parts[f"{FORWARD}, bfloat16, as a CUDA graph"] = graphed.compute
    if compiled:
        with contextlib.suppress(BackendCompilerFailed):
            parts[f"{FORWARD}, compiled"] = _TrainingStep(_config(model, PLAIN), batch, compiled=True).compute
    times = {name: t.median for name, t in interleaved(parts, rounds, 0.05).items()}
    base = times["plain optimizer"]
    whole = times[FORWARD] + base
    return [PartTime(name, ms, ms / whole, (ms - base) / whole if name in METHODS else None) for name, ms in times.items()]


class _TrainingStep:
    """A network and its optimizer on one batch; the gradients of the first pass are there."""

    def __init__(
        self,
        config: TrainConfig,
        batch: tuple[Tensor, Tensor],
        *,
        compiled: bool = False,
        bfloat16: bool = False,
        graphed: bool = False,
    ) -> None:
        self.batch, self.bfloat16, self.device = batch, bfloat16, batch[0].device
        network = build_model(config.model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = network.to(self.device)
        self.optimizer = make_optimizer(self.network, config, STEPS)
        if compiled:
            self.network.compile()
        self.run = GraphedPass(self._gradients, self.network) if graphed else self._gradients
        self.compute()

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(images)
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()
        return loss.detach()

    def compute(self) -> None:
        """Forward and backward."""
        self.run(*self.batch)
        self._wait()

    def update(self) -> None:
        """The optimizer's step."""
        self.optimizer.step()
        self._wait()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _config(model: str, method: str) -> TrainConfig:
    weights = "float" if method == PLAIN else (METHODS[method].levels or ("quaternary",))[-1]
    scale = "two-sided" if method == "ttq" else "channel"
    network = ModelConfig(model=model, weights=weights, activations=32, scale=scale)  # type: ignore[arg-type]
    return TrainConfig(network, optimizer=OptimizerConfig() if method == PLAIN else OptimizerConfig(method=method))  # type: ignore[arg-type]


def _random_batch(batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(0, 10, (batch_size,), device=device)
