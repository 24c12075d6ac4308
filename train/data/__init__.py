"""Image classification data in memory: digits, CIFAR-10/100, or a folder of one folder a class.

`load_data(config)` gives a `Dataset`: two `Split`s of uint8 [N, C, H, W] images and int64 [N] labels, the class names, and the
normalization the network's pixel input uses. Training batches are made by `bitplane.train.data.augment`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bitplane.train.config import DataConfig
from bitplane.train.data.dataset import Dataset, Split
from bitplane.train.data.folder import load_folder
from bitplane.train.errors import ConfigError, DataError


def load_data(config: DataConfig) -> Dataset:
    """Load a data set.

    Raises:
        DataError: files are missing, unreadable, empty or of different sizes; the message names them.
        ConfigError: the name is neither a known data set nor a folder.
    """
    data = _load(config)
    if len(data.test.labels) == 0 or len(data.train.labels) - config.holdout < 2:
        raise DataError(f"{config.data}: needs at least 2 training images (besides {config.holdout} held out) and 1 test image")
    if config.holdout == 0:
        return data
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))
    kept, held = order[config.holdout :].sort().values, order[: config.holdout].sort().values
    splits = [Split(data.train.images[i], data.train.labels[i]) for i in (kept, held)]
    return replace(data, train=splits[0], test=splits[1])


def _load(config: DataConfig) -> Dataset:
    if config.data == "digits":
        return _digits()
    if config.data in ("cifar10", "cifar100"):
        return _cifar(config)
    if Path(config.data).is_dir():
        train, test, classes = load_folder(Path(config.data), config.size)
        return _dataset(Path(config.data).absolute().name, train, test, classes, flip=True)
    raise ConfigError(f"data '{config.data}' is neither digits, cifar10, cifar100 nor an existing folder")


def _dataset(name: str, train: Split, test: Split, classes: tuple[str, ...], flip: bool) -> Dataset:
    sample = train.images[:: max(1, len(train.images) // 5000)].float()
    zero_point, scale = round(sample.mean().item()), round(sample.std().item(), 1)
    side = train.images.shape[-1]
    return Dataset(name, train, test, classes, zero_point, max(scale, 1.0), flip, crop=max(1, side // 8))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(images).reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Every pixel doubled: a ResNet halves the side twice, and 2x2 features are too few.
    x = torch.from_numpy(pixels.repeat(2, axis=2).repeat(2, axis=3))
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    names = tuple(str(i) for i in range(10))
    return _dataset("digits", Split(x[train], y[train]), Split(x[test], y[test]), names, flip=False)


def _cifar(config: DataConfig) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100

    make: Callable[..., CIFAR10] = CIFAR10 if config.data == "cifar10" else CIFAR100
    try:
        parts = [make(config.data_dir, train=t, download=config.download) for t in (True, False)]
    except RuntimeError as e:
        raise DataError(f"{config.data_dir}: no intact {config.data} there; add --download to fetch it") from e
    except (OSError, json.JSONDecodeError) as e:
        raise DataError(f"{config.data_dir}: {config.data} cannot be read or downloaded ({e})") from e
    train, test = (
        Split(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets, dtype=torch.int64))
        for p in parts
    )
    return _dataset(config.data, train, test, tuple(parts[0].classes), flip=True)
