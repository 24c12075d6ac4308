"""Activation quantizers: learned step for 2, 4 and 8 bits (LSQ), sign for 1 bit, identity for 32."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def _fresh(result: Tensor) -> Tensor:
    # torch.compile of torch 2.11 gives an output that an in-place operation has made no gradient, without a word.
    return result.detach()


class _RoundClamp(torch.autograd.Function):
    """clamp(round(x / step), 0, top) * step with LSQ's gradients (Esser et al., ICLR 2020, eq. 2-5).

    Memory bound, so it works in the dtype of `x` and keeps only its input and output, which their neighbors keep anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, top: int, grad_scale: float) -> Tensor:
        width = step.to(x.dtype)
        value = (x / width).round_().clamp_(0, top).mul_(width)
        ctx.save_for_backward(x, value, width)
        ctx.top, ctx.grad_scale = top, grad_scale
        return _fresh(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        x, value, width = ctx.saved_tensors
        grad_x = torch.ops.aten.hardtanh_backward(grad, x / width, 0, ctx.top)
        # d value / d step is code - x / step inside the range and the code outside it.
        d_step = (grad * value).addcmul_(grad_x, x, value=-1).sum(dtype=torch.float32) / width.float()
        return grad_x, d_step * ctx.grad_scale, None, None


class LearnedStep(nn.Module):
    """Unsigned `bits`-bit activation codes with one learned step a tensor.

    While `observing`, every forward pass sets the step to 2 mean|x| / sqrt(2^bits - 1): `start_steps` does so once.

    Shape: [N, ...] float, non-negative after ReLU; the output is code * step of the same shape.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observing = False
        self.step = nn.Parameter(torch.ones(1))

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Round to the nearest code (ties to even) and back to the value."""
        if self.observing:
            with torch.no_grad():
                self.step.fill_(2 * x.detach().float().abs().mean() / math.sqrt(self.top)).clamp_(min=1e-6)
        grad_scale = 1 / math.sqrt(x[0].numel() * self.top)
        return _RoundClamp.apply(x, self.step.abs().clamp(min=1e-8), self.top, grad_scale)


class _Sign(torch.autograd.Function):
    """Sign (0 counts as positive), gradient 2 - 2|x| within [-1, 1] (Bi-Real Net, Liu et al., ECCV 2018, eq. 5)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _fresh((x >= 0).to(x.dtype).mul_(2).sub_(1))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (grad,), (x,) = grad_outputs, ctx.saved_tensors
        return grad * (2 - 2 * x.abs()).clamp_(min=0)


class Sign(nn.Module):
    """1-bit activations in {-1, +1} with a straight-through estimator."""

    bits = 1

    def forward(self, x: Tensor) -> Tensor:
        """The sign of every element; 0 gives +1."""
        return _Sign.apply(x)


class FloatActivation(nn.Identity):
    """Activations stay in floating point while training; export calibrates 8 bits."""

    bits = 32


ACTIVATION_BITS = (32, 8, 4, 2, 1)


def activation_quantizer(bits: int) -> nn.Module:
    """The quantizer of `bits`-bit activations; `bits` is one of `ACTIVATION_BITS`."""
    if bits == 32:
        return FloatActivation()
    return Sign() if bits == 1 else LearnedStep(bits)


@torch.no_grad()
def start_steps(model: nn.Module, images: Tensor, bits: int | None = None) -> None:
    """Set every learned step from one batch, layer after layer, as training begins or the number of bits changes.

    Args:
        model: the network; left in training mode, its BatchNorm statistics untouched.
        images: a batch, the same one in every process.
        bits: new number of bits; default: as they are.
    """
    quantizers = [m for m in model.modules() if isinstance(m, LearnedStep)]
    if not quantizers:
        return
    kept = {k: v.clone() for k, v in model.state_dict().items() if "running_" in k or "num_batches" in k}
    for q in quantizers:
        q.bits, q.observing = bits or q.bits, True
    model.train()
    model(images)
    for q in quantizers:
        q.observing = False
    model.load_state_dict(kept, strict=False)
