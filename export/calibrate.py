"""Calibration: 8-bit steps for networks whose activations stayed in floating point while training.

The step of a tensor is top / 255 for the clipping value `top` of least mean squared quantization error on real samples.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from bitplane.train.activations import FloatActivation, LearnedStep
from bitplane.train.models import ResNet

CALIBRATED_BITS = 8
VALUES_PER_BATCH = 1 << 14
GRID = 64


def best_step(values: Tensor, largest: float, bits: int = CALIBRATED_BITS) -> float:
    """The step of least mean squared error of unsigned `bits`-bit codes.

    Args:
        values: float32, any shape; a sample of the tensor's values.
        largest: the largest value of the whole tensor: the end of the grid of clipping values.
        bits: bits of a code.

    Returns:
        The step, positive; that of `largest` = 1 where no value is positive.
    """
    top = 2**bits - 1
    if not largest > 0:
        return 1.0 / top
    flat = values.reshape(-1).float()
    steps = [largest * i / GRID / top for i in range(GRID // 8, GRID + 1)]
    errors = [((flat / s).round_().clamp_(0, top).mul_(s) - flat).square_().mean().item() for s in steps]
    return steps[min(range(len(steps)), key=errors.__getitem__)]


@torch.no_grad()
def calibrate(model: ResNet, samples: Tensor, batch: int = 32) -> ResNet:
    """Give a network of float activations 8-bit ones.

    Args:
        model: a network in eval mode with `config.activations` = 32; not modified.
        samples: uint8 [N, C, H, W], real images; N of a few hundred is plenty.
        batch: images run at a time.

    Returns:
        A copy whose activation quantizers are `LearnedStep` of 8 bits and whose configuration says so.
    """
    calibrated = copy.deepcopy(model).eval()
    points = {n: m for n, m in calibrated.named_modules() if isinstance(m, FloatActivation)}
    seen: dict[str, list[Tensor]] = {name: [] for name in points}
    largest = dict.fromkeys(points, 0.0)
    generator = torch.Generator().manual_seed(0)

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def collect(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            flat = inputs[0].reshape(-1)
            largest[name] = max(largest[name], flat.max().item())
            picked = torch.randint(flat.numel(), (min(VALUES_PER_BATCH, flat.numel()),), generator=generator)
            seen[name].append(flat[picked])

        return module.register_forward_pre_hook(collect)

    handles = [watch(name, module) for name, module in points.items()]
    for images in samples.split(batch):
        calibrated(images)
    for handle in handles:
        handle.remove()
    for name in points:
        quantizer = LearnedStep(CALIBRATED_BITS)
        quantizer.step.fill_(best_step(torch.cat(seen[name]), largest[name]))
        quantizer.started.fill_(1)
        calibrated.set_submodule(name, quantizer)
    calibrated.config = replace(calibrated.config, activations=CALIBRATED_BITS)
    return calibrated.eval()
