"""Training batches: shuffled, sharded over processes, randomly cropped and mirrored, all by gathering on one device."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from bitplane.train.data import Dataset


class BatchLoader:
    """Epochs of augmented training batches; the same seed and epoch give the same batches on any device.

    Args:
        data: the data set; its training split is copied to `device` and padded there once.
        batch_size: images a process and step.
        device: where batches are made.
        seed: seed of order, crops and flips.
        rank: number of this process.
        world: number of processes; each takes every `world`-th image of the shuffled order.
    """

    def __init__(self, data: Dataset, batch_size: int, device: torch.device, seed: int, rank: int = 0, world: int = 1) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed, self.rank, self.world = seed, rank, world
        c = data.crop
        self.padded = functional.pad(data.train.images.to(device), (c, c, c, c), value=data.zero_point)
        self.labels = data.train.labels.to(device)

    def __len__(self) -> int:
        """Steps an epoch; an incomplete last batch is left out unless it is the only one."""
        return max(1, len(self.labels) // self.world // self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 [B, C, H, W] channels-last, int64 [B]) of epoch `number`."""
        # Everything random is drawn on the CPU: device generators differ.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.labels), generator=generator)
        dy, dx = torch.randint(0, 2 * self.data.crop + 1, (2, len(order)), generator=generator)
        flip = torch.rand(len(order), generator=generator) < (0.5 if self.data.flip else 0.0)
        device = self.labels.device
        height, width = self.data.train.images.shape[-2:]
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        mine = torch.arange(self.rank, len(order), self.world)
        for step in range(len(self)):
            at = mine[step * self.batch_size : (step + 1) * self.batch_size]
            index = order[at].to(device)
            y = dy[at].to(device)[:, None] + rows
            x = torch.where(flip[at].to(device)[:, None], columns.flip(0), columns) + dx[at].to(device)[:, None]
            # Advanced indices around the channel slice put the channels last.
            batch = self.padded[index[:, None, None], :, y[:, :, None], x[:, None, :]]
            yield batch.permute(0, 3, 1, 2), self.labels[index]
