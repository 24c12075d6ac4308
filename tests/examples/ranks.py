"""What each of two processes does: `python -m torch.distributed.run --nproc-per-node 2 ranks.py PAGE FOLDER`.

It runs the page, then trains a network of float64 by DistributedDataParallel, then tries FSDP2, and saves what each ended with.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import bitplane
from bitplane.train.layers import low_bit_layers


def network() -> nn.Module:
    """Without BatchNorm, whose statistics are those of a process, and of float64, so that rounding moves no code."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    bitplane.prepare(model, "ternary", 4)
    return model.double()


def batches(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 8, 1, 8, 8, generator=generator, dtype=torch.float64)
    return [(x, torch.randint(0, 4, (8,), generator=generator)) for x in images]


def train(wrap: Callable[[nn.Module], nn.Module], share: slice, **options: Any) -> dict[str, Tensor]:
    """Weights, scales, steps and latents after a training with `share` of each batch."""
    model = network()
    wrapped = wrap(model)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = bitplane.ProxOptimizer(base, wrapped, "pc", steps=24, **options)
    if not dist.is_initialized():
        wrapped(batches(1)[0][0][::2])  # of two processes, the first one's part of the first batch sets the activations' steps
    for x, y in batches():
        nn.functional.cross_entropy(wrapped(x[share]), y[share]).backward()
        optimizer.step()
        optimizer.zero_grad()
    bitplane.finish(wrapped, optimizer)
    return {**model.state_dict(), **{f"latent {i}": v for i, v in enumerate(optimizer.latent.values())}}


def sharded() -> str:
    """What ProxOptimizer says of a network that FSDP2 has sharded."""
    model = fully_shard(network())
    try:
        bitplane.ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), model, steps=24)
    except bitplane.BitplaneError as e:
        return str(e)
    return ""


def main() -> None:
    page, folder = sys.argv[1:]
    sys.path.insert(0, str(Path(page).parent))
    with patch.object(dist, "destroy_process_group"):  # a second group could not meet in the store of the first
        ran = runpy.run_path(page)
    ended = {**dict(ran["model"].named_parameters()), **{n: m.level_scale for n, m in low_bit_layers(ran["model"]).items()}}
    rank, size = dist.get_rank(), dist.get_world_size()
    kinds = {"fixed": train(DistributedDataParallel, slice(rank, None, size))}
    kinds["learned"] = train(DistributedDataParallel, slice(rank, None, size), scale_fit="learned")
    result = {"page": ended, "steps": ran["optimizer"].step_count, "kinds": kinds, "sharded": sharded()}
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
