"""Activation quantizers: learned step for 2, 4 and 8 bits (LSQ), sign for 1 bit, identity for 32."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from bitplane.train.errors import TrainingError
from bitplane.train.layers import batch_norm_statistics, set_batch_norm_statistics
from bitplane.train.tables import Table


def _fresh(result: Tensor) -> Tensor:
    # torch.compile (2.11) silently drops the gradient of an output that an in-place operation has made.
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


# One operator, so that torch.compile's graph does not break here: a loop over layers (nn.Sequential) with a break in it is not
# compiled at all, now or later. It changes no argument: torch.compile (2.14) would let the backward pass write over one that it
# changes.
@torch.library.custom_op("bitplane::first_step", mutates_args=())
def _first_step(x: Tensor, step: Tensor, bits: int, training: bool, layer: str) -> Tensor:
    """The step to compute with while `step` may be unknown, float32 [1]; in training mode the same in every process.

    Raises:
        TrainingError: it is unknown, and `x` has negative values.
    """
    if step.item() != 0:  # somebody has set it
        return step.clone()
    if bool((x < 0).any()):
        raise TrainingError(
            f"{layer or 'a layer'}: `activations` (={bits}) are codes from 0, and it reads values down to {x.min().item():.3g};"
            " give it `activations` 32, or keep it as it is"
        )
    found = (2 * x.float().abs().mean() / math.sqrt(2**bits - 1)).clamp(min=1e-6).reshape(1).to(step.dtype)
    if training and distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(found, 0)
    return found


@_first_step.register_fake
def _(x: Tensor, step: Tensor, bits: int, training: bool, layer: str) -> Tensor:
    return torch.empty_like(step)


class LearnedStep(nn.Module):
    """Unsigned `bits`-bit activation codes with one learned step a tensor.

    A step of 0 stands for "not known yet", as it is in a new module: the first forward pass in training mode sets it to
    2 mean|x| / sqrt(2^bits - 1), and with several processes that of the first one counts; a forward pass in eval mode before
    that computes with its own. `start_steps` sets all steps of a network anew.

    Shape: [N, ...] float, non-negative; the output is code * step of the same shape.

    Raises:
        TrainingError: the values that shall set the step are negative too: their codes would all be 0.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.layer = ""  # that reads the codes, for messages
        self.observing = True
        self.step = nn.Parameter(torch.zeros(1))

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Round to the nearest code (ties to even) and back to the value."""
        step: Tensor = self.step
        if self.observing:
            with torch.no_grad():
                found = _first_step(x.detach(), step.detach(), self.bits, self.training, self.layer)
                if self.training:
                    step.copy_(found)
                    self.observing = False
            if not self.training:
                step = torch.where(step == 0, found, step)
        grad_scale = 1 / math.sqrt(x[0].numel() * self.top)
        return _RoundClamp.apply(x, step.abs().clamp(min=1e-8), self.top, grad_scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}step" in state_dict:
            self.observing = self.step.is_meta or self.step.item() == 0


_ONE = {
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float16: (torch.int16, 0x3C00),
    torch.float32: (torch.int32, 0x3F800000),
    torch.float64: (torch.int64, 0x3FF0000000000000),
}
"""Of a floating-point type, the integer type of its size and the bits of 1."""


def _signs(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, by its sign bit: torch compares bfloat16 in a scalar loop on a CPU."""
    integer, one = _ONE[x.dtype]
    lowest = torch.iinfo(integer).min
    return (x + 0).view(integer).bitwise_and_(lowest).bitwise_or_(one).view(x.dtype)  # -0 + 0 is +0


def _as_rows(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """A feature map [N, C, H, W] and one value a channel [C], in the map's dtype and in shapes that broadcast fast.

    A channels-last map becomes [N H, W C] and the values [W C]: with [C, 1, 1] a CPU would loop over the few channels of one
    pixel at a time.
    """
    values = values.to(x.dtype)
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x, values.view(-1, *[1] * (x.dim() - 2))
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n * h, w * c), values.repeat(w)


def _from_rows(rows: Tensor, x: Tensor) -> Tensor:
    """The inverse of `_as_rows`: rows in the shape of the feature map `x` again."""
    if rows.dim() == x.dim():
        return rows
    n, c, h, w = x.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


class _Sign(torch.autograd.Function):
    """Sign of x - threshold, 0 counts as positive.

    Of that difference d, gradient 2 - 2|d| within [-1, 1] (Bi-Real Net, Liu et al., ECCV 2018, eq. 5).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor | None) -> Tensor:
        if threshold is not None:
            rows, values = _as_rows(x, threshold)
            x = _from_rows(rows - values, x)
        ctx.save_for_backward(x)
        ctx.learned = threshold is not None
        return _fresh(_signs(x))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        (grad,), (x,) = grad_outputs, ctx.saved_tensors
        grad_x = grad * (2 - 2 * x.abs()).clamp_(min=0)
        return grad_x, -_over_pixels(grad_x) if ctx.learned else None


def _over_pixels(x: Tensor) -> Tensor:
    """Sum of [N, C, ...] over all but the channels, float32 [C]."""
    return x.sum([d for d in range(x.dim()) if d != 1], dtype=torch.float32)


class _PRelu(torch.autograd.Function):
    """x where x > 0, else slope * x, in the dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        rows, slopes = _as_rows(x, slope)
        return _from_rows(torch.addcmul(rows.relu(), rows.clamp(max=0), slopes), x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (x, slope) = grad_outputs, ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(grad, x, 0)
        negative = grad - positive
        rows, slopes = _as_rows(negative, slope)
        return positive + _from_rows(rows * slopes, negative), _over_pixels(negative * x)


class PRelu(nn.PReLU):
    """torch's PReLU of a slope a channel, without its scalar loops for bfloat16 on CPUs (docs/decisions/0011)."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same shape."""
        return _PRelu.apply(input, self.weight)


class Sign(nn.Module):
    """1-bit activations in {-1, +1} with a straight-through estimator.

    Args:
        channels: learn a threshold for each of so many channels (ReActNet's RSign; Liu et al., ECCV 2020, eq. 1); 0 keeps 0.

    Shape: [N, C, ...] float; the output has the same shape.
    """

    bits = 1

    def __init__(self, channels: int = 0) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels)) if channels else None

    def forward(self, x: Tensor) -> Tensor:
        """+1 where an element reaches its channel's threshold, else -1."""
        return _Sign.apply(x, self.threshold)


class FloatActivation(nn.Identity):
    """Activations stay in floating point while training; export calibrates 8 bits."""

    bits = 32


MakeQuantizer = Callable[[int], nn.Module]
"""From the number of channels of a feature map to the module that quantizes it."""

ACTIVATION_QUANTIZERS: Table[int | str, MakeQuantizer] = Table(
    "activations",
    {
        32: lambda channels: FloatActivation(),
        8: lambda channels: LearnedStep(8),
        4: lambda channels: LearnedStep(4),
        2: lambda channels: LearnedStep(2),
        1: lambda channels: Sign(),
        "learned-sign": Sign,
    },
    Callable,
)
"""Quantizers by the number of bits, or the name, that `activations` takes; "learned-sign" is ReActNet's RSign."""


def register_activation(name: int | str, make: MakeQuantizer) -> None:
    """Let `activations` name a quantizer of your own, in every process that calls this first.

    Args:
        name: a new number of bits, or a name.
        make: makes the quantizer of a feature map: a module [N, C, H, W] to the same shape. Export reads only `LearnedStep`,
            `Sign` and float activations.

    Raises:
        ConfigError: the name cannot be used or is taken.
    """
    ACTIVATION_QUANTIZERS.register(name, make)


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
    statistics = batch_norm_statistics(model)
    for q in quantizers:
        q.bits, q.observing = bits or q.bits, True
        q.step.zero_()
    model.train()
    model(images)
    set_batch_norm_statistics(model, statistics)
