"""BatchNorm over the whole batch of several processes, on any device.

With it a run's result does not depend on how many processes share its batch, but for rounding. torch's own SyncBatchNorm is
faster and takes its place on CUDA; it refuses CPU tensors.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bitplane.train.errors import ConfigError


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of a sum that all of them use is the sum of their gradients."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are those of all processes' batches together.

    Shape: [N, C, H, W] to the same; N may differ between processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in eval mode, or in a single process, as nn.BatchNorm2d."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        x = input.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        # Sums about the running mean: the variance does not suffer from cancellation.
        shift = self.running_mean.detach().clone() if self.running_mean is not None else torch.zeros_like(x[0, :, 0, 0])
        d = x - shift[:, None, None]
        sums = _Sum.apply(torch.cat([d.sum((0, 2, 3)), d.square().sum((0, 2, 3)), count]))
        total, n = sums[:-1].chunk(2), sums[-1]
        mean = total[0] / n
        variance = total[1] / n - mean.square()
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_((mean + shift).detach(), momentum)
            self.running_var.lerp_((variance * n / (n - 1)).detach(), momentum)
        factor = torch.rsqrt(variance + self.eps) * self.weight
        return (d * factor[:, None, None] + (self.bias - mean * factor)[:, None, None]).to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm of `model` by one that takes its statistics over all processes; weights are kept.

    Raises:
        ConfigError: a BatchNorm is of a kind that has no such form: torch's SyncBatchNorm drops what a subclass adds.
    """
    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm) if device.type == "cuda" else (nn.BatchNorm2d,)
    for name, m in model.named_modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and type(m) not in (*known, SyncBatchNorm2d):
            raise ConfigError(f"{name}: a {type(m).__name__} has no statistics over several processes; train with one process")
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in list(model.named_children()):
        if type(child) is nn.BatchNorm2d:
            new = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            # The very same tensors: an optimizer may hold them.
            new.weight, new.bias = child.weight, child.bias
            new.running_mean, new.running_var = child.running_mean, child.running_var
            new.num_batches_tracked = child.num_batches_tracked
            setattr(model, name, new.train(child.training))
        else:
            synchronize_batch_norm(child, device)
    return model
