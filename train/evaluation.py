"""How good a network is, and BatchNorm's statistics at the weights that it will be exported with."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from bitplane.train.data.augment import BatchLoader
from bitplane.train.data.dataset import Split
from bitplane.train.finish import reestimate_statistics
from bitplane.train.layers import batch_norm_statistics, set_batch_norm_statistics
from bitplane.train.optimizer import ProxOptimizer


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: torch.device, batch_size: int = 500) -> dict[str, float]:
    """The loss and accuracy of a network, computed in float32.

    Args:
        model: uint8 [N, C, H, W] to logits [N, classes], on `device`; left in eval mode.
        split: images and labels, on any device.
        device: where to compute.
        batch_size: images in a forward pass.

    Returns:
        "test_loss", the mean cross-entropy, and "test_top1", the share of images whose class has the largest logit.
    """
    model.eval()
    loss, correct = torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
            logits = model(images.to(device, memory_format=torch.channels_last)).float()
            y = labels.to(device)
            loss += functional.cross_entropy(logits, y, reduction="sum")
            correct += (logits.argmax(1) == y).sum()
    return {"test_loss": loss.item() / len(split.labels), "test_top1": correct.item() / len(split.labels)}


@contextmanager
def final_weights(model: nn.Module, optimizer: ProxOptimizer, loader: BatchLoader, batches: int) -> Iterator[None]:
    """Within the block the network is as it would be exported now; afterwards everything is as before.

    Args:
        model: the network that `optimizer` moves.
        optimizer: it projects the weights onto their level sets.
        loader: of the training images.
        batches: slices of batches from which BatchNorm's statistics are re-estimated; 0 keeps the running ones.
    """
    statistics = batch_norm_statistics(model)
    with optimizer.projected():
        if batches:
            reestimate_statistics(model, (images for images, _ in itertools.islice(loader.epoch(0), batches)))
        yield
    set_batch_norm_statistics(model, statistics)
