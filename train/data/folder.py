"""A tree of one folder a class: `FOLDER/train/<class>/*.png` and `FOLDER/test/<class>/*.png` (or `val` for `test`)."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from bitplane.train.data.dataset import Split
from bitplane.train.errors import DataError

SMALL = 2**14
"""Images of fewer bytes are read by one thread: CIFAR-10 as PNG takes half the time that way."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")


def load_folder(root: Path, size: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Read both splits of a tree.

    Args:
        root: the folder.
        size: side in pixels to resize to; 0 keeps the images' own, which must agree.

    Returns:
        Train split, test split, class names in alphabetical order.

    Raises:
        DataError: a split or class is missing or empty, or images are unreadable or of different sizes.
    """
    tests = [root / n for n in ("test", "val") if (root / n).is_dir()]
    if not (root / "train").is_dir() or not tests:
        raise DataError(f"{root}: expected the folders train/ and test/ (or val/), each with one folder a class")
    classes = tuple(sorted(p.name for p in (root / "train").iterdir() if p.is_dir()))
    if not classes:
        raise DataError(f"{root / 'train'}: no class folders; put the images of each class into a folder of its name")
    return _split(root / "train", classes, size), _split(tests[0], classes, size), classes


def _split(folder: Path, classes: tuple[str, ...], size: int) -> Split:
    files: list[Path] = []
    labels: list[int] = []
    for i, name in enumerate(classes):
        found = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"{folder / name}: no images ({', '.join(EXTENSIONS)}); add some or remove the class")
        files += found
        labels += [i] * len(found)
    arrays = _read_all(files, size)
    bad = [p for p, a in zip(files, arrays, strict=True) if a is None]
    if bad:
        raise DataError(f"{bad[0]}: not a readable image ({len(bad)} of {len(files)} in {folder}); replace or remove it")
    images = [a for a in arrays if a is not None]
    for p, a in zip(files, images, strict=True):
        if a.shape != images[0].shape:
            raise DataError(f"{p}: {a.shape[1]}x{a.shape[0]} pixels, {files[0]} has other sides; give --size to resize all")
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Split(stacked, torch.tensor(labels, dtype=torch.int64))


def _read_all(files: list[Path], size: int) -> list[np.ndarray | None]:
    read = partial(_read, size=size)
    if files[0].stat().st_size < SMALL:
        return list(map(read, files))
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, files))


def _read(path: Path, size: int) -> np.ndarray | None:
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR) if size else rgb)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return None
