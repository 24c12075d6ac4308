"""What a method adds to a training step: forward and backward, the plain optimizer, and the optimizer with each method.

The parts take turns in one process, so that ratios hold on a noisy machine. Data: a random batch, uint8 [N, 3, 32, 32].
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional

from bitplane.benchmarks.measure import interleaved
from bitplane.train.config import ModelConfig, OptimizerConfig, TrainConfig
from bitplane.train.cuda_graph import GraphedPass
from bitplane.train.methods import METHODS
from bitplane.train.models import build_model
from bitplane.train.setup import make_optimizer

STEPS = 1_000_000  # of the schedule: the quantizer stays in its soft stage


def measure_training(
    model: str = "resnet20", batch_size: int = 128, rounds: int = 10, *, compiled: bool = False
) -> list[dict[str, Any]]:
    """Time the steps of all methods on a network with float activations.

    Args:
        model: architecture.
        batch_size: images a step.
        rounds: turns each part gets.
        compiled: forward and backward also as torch.compile makes them, where it finds a compiler: takes a minute.

    Returns:
        One object a part: "part", "ms" (median), "of_step" (of forward, backward and plain optimizer together), and for methods
        "added", the share of a step by which they exceed the plain optimizer.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,), device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def build(
        method: str, *, compiled: bool = False, bfloat16: bool = False, graphed: bool = False
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        weights = "float" if method == "plain" else (METHODS[method].levels or ("quaternary",))[-1]
        scale = "two-sided" if method == "ttq" else "channel"
        config = TrainConfig(
            ModelConfig(model=model, weights=weights, activations=32, scale=scale),  # type: ignore[arg-type]
            optimizer=OptimizerConfig() if method == "plain" else replace(OptimizerConfig(), method=method),  # type: ignore[arg-type]
        )
        network = build_model(config.model).to(memory_format=torch.channels_last).to(device)  # pyright: ignore[reportCallIssue]
        optimizer = make_optimizer(network, config, STEPS)
        if compiled:
            network.compile()

        def gradients(images: Tensor, labels: Tensor) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = network(images)
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
            return loss.detach()

        run = GraphedPass(gradients, network) if graphed else gradients

        def compute() -> None:
            run(images, labels)
            wait()

        def step() -> None:
            optimizer.step()
            wait()

        compute()
        return compute, step

    compute, plain = build("plain")
    parts = {"forward and backward": compute, "plain optimizer": plain} | {m: build(m)[1] for m in METHODS}
    parts["forward and backward, bfloat16"] = build("plain", bfloat16=True)[0]
    if device.type == "cuda":
        parts["forward and backward, bfloat16, as a CUDA graph"] = build("plain", bfloat16=True, graphed=True)[0]
    if compiled:
        with contextlib.suppress(BackendCompilerFailed):
            parts["forward and backward, compiled"] = build("plain", compiled=True)[0]
    times = {name: t.median for name, t in interleaved(parts, rounds, 0.05).items()}
    whole = times["forward and backward"] + times["plain optimizer"]
    return [
        {"part": name, "ms": ms, "of_step": ms / whole}
        | ({"added": (ms - times["plain optimizer"]) / whole} if name in METHODS else {})
        for name, ms in times.items()
    ]
