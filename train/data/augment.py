"""Training batches on one device: shuffled, cut into slices for processes and accumulation, cropped and mirrored."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bitplane.train.data.dataset import Dataset
from bitplane.train.errors import ConfigError

AT_ONCE = 16
"""Slices of batches that are made together: fewer and larger kernels on a GPU (docs/decisions/0010)."""


@dataclass(frozen=True)
class Share:
    """Which slices of a batch a process computes.

    A batch is cut into `world * parts` equal slices: process r computes slices r, r + world, ... one after the other, so that
    all processes together see the batch that a single one would see.

    Attributes:
        rank: number of this process.
        world: number of processes.
        parts: slices of a batch that each process computes.
    """

    rank: int = 0
    world: int = 1
    parts: int = 1


WHOLE = Share()


class BatchLoader:
    """Epochs of augmented training batches; the same seed and epoch give the same batches on any device.

    Args:
        data: the data set; its training split is copied to `device` and padded there once.
        batch_size: images of a batch, over all slices.
        device: where batches are made.
        seed: seed of order, crops and flips.
        share: slices of each batch that this process computes.

    Raises:
        ConfigError: a batch cannot be cut into equal slices.
    """

    def __init__(self, data: Dataset, batch_size: int, device: torch.device, seed: int, share: Share = WHOLE) -> None:
        self.batch_size = min(batch_size, len(data.train.labels))
        if self.batch_size % (share.world * share.parts):
            raise ConfigError(
                f"`batch_size` (={self.batch_size}) must be divisible by {share.world} processes times `accumulate`"
                f" (={share.parts})"
            )
        self.data, self.seed, self.share = data, seed, share
        c = data.crop
        self.padded = functional.pad(data.train.images.to(device), (c, c, c, c), value=data.zero_point)
        self.labels = data.train.labels.to(device)

    def __len__(self) -> int:
        """Batches an epoch; an incomplete last one is left out."""
        return len(self.labels) // self.batch_size

    def epoch(self, number: int, *, whole: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's slices of epoch `number`, `share.parts` of them a batch.

        Args:
            number: of the epoch, from 0.
            whole: yield whole batches instead, the same in every process.

        Yields:
            uint8 [B, C, H, W] channels-last, int64 [B].
        """
        # Everything random is drawn on the CPU: device generators differ.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.labels), generator=generator)
        dy, dx = torch.randint(0, 2 * self.data.crop + 1, (2, len(order)), generator=generator)
        flip = torch.rand(len(order), generator=generator) < (0.5 if self.data.flip else 0.0)
        share = WHOLE if whole else self.share
        # [steps * share.parts, B] each: a batch is dealt out to its slices like cards.
        slices = [
            t.to(self.labels.device)[: len(self) * self.batch_size]
            .view(len(self), -1, share.parts, share.world)[..., share.rank]
            .transpose(1, 2)
            .reshape(len(self) * share.parts, -1)
            for t in (order, dy, dx, flip)
        ]
        for some in zip(*(t.split(AT_ONCE) for t in slices), strict=True):
            images, labels = self._gather(*(t.flatten() for t in some))
            yield from zip(images.split(some[0].shape[1]), labels.split(some[0].shape[1]), strict=True)

    def whole_batch(self, epoch: int, number: int) -> Tensor:
        """All images of a batch of an epoch, both from 0, the same in every process: uint8 [B, C, H, W]."""
        return next(itertools.islice(self.epoch(epoch, whole=True), number, None))[0]

    def _gather(self, index: Tensor, dy: Tensor, dx: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self.data.train.images.shape[-2:]
        rows, columns = torch.arange(height, device=index.device), torch.arange(width, device=index.device)
        y = dy[:, None] + rows
        x = torch.where(flip[:, None], columns.flip(0), columns) + dx[:, None]
        # Advanced indices around the channel slice put the channels last.
        batch = self.padded[index[:, None, None], :, y[:, :, None], x[:, None, :]]
        return batch.permute(0, 3, 1, 2), self.labels[index]
