"""A tree of one folder a class: `FOLDER/train/<class>/*.png` and `FOLDER/test/<class>/*.png` (or `val` for `test`).

Nothing in it is dropped without a word: a file that is no image, a folder inside of a class and a class that only one split has
are refused by name. Files whose names start with a dot, and those that file managers leave, are not looked at.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bitplane.pixels import EXTENSIONS, PixelError, PixelForm, read_pixels
from bitplane.train.data.dataset import Split
from bitplane.train.errors import DataError

SMALL = 2**14
"""Images of fewer bytes are read by one thread: CIFAR-10 as PNG takes half the time that way."""

LEFT_BEHIND = ("thumbs.db", "desktop.ini")
"""Files of file managers, in small letters."""


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
    test = test_folder(root)
    if not (root / "train").is_dir() or test is None:
        raise DataError(f"{root}: expected the folders train/ and test/ (or val/), each with one folder a class")
    classes = class_names(root / "train")
    if extra := [name for name in class_names(test) if name not in classes]:
        raise DataError(f"{test / extra[0]}: there is no class {root / 'train' / extra[0]}; add or remove the folder")
    form = PixelForm((size, size) if size else None)
    return load_split(root / "train", classes, form), load_split(test, classes, form), classes


def test_folder(root: Path) -> Path | None:
    """The test split of a tree: `test`, or else `val`."""
    return next((root / name for name in ("test", "val") if (root / name).is_dir()), None)


def class_names(split: Path) -> tuple[str, ...]:
    """Names of the class folders of a split, in alphabetical order.

    Raises:
        DataError: there are none.
    """
    names = tuple(sorted(p.name for p in split.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise DataError(f"{split}: no class folders; put the images of each class into a folder of its name")
    return names


def load_split(split: Path, classes: Sequence[str], form: PixelForm) -> Split:
    """Read the images of a split.

    Args:
        split: the folder of class folders.
        classes: names of the class folders to read, in the order of their labels.
        form: what their pixels become; without a size they must agree in theirs.

    Raises:
        DataError: a class is missing, empty or holds something that is no image, or an image cannot be read.
    """
    files = [class_files(split / name) for name in classes]
    images = torch.from_numpy(read_images([f for found in files for f in found], form))
    labels = [label for label, found in enumerate(files) for _ in found]
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def sample_folder(root: Path, count: int, form: PixelForm) -> torch.Tensor:
    """Images spread evenly over the training split of a tree (or over the tree itself, if it is one of class folders).

    Args:
        root: the folder.
        count: images to read; all, if there are fewer.
        form: what their pixels become; without a size they must agree in theirs.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        DataError: as `load_split`.
    """
    split = root / "train" if (root / "train").is_dir() else root
    files = [f for name in class_names(split) for f in class_files(split / name)]
    picked = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return torch.from_numpy(read_images([files[i] for i in picked], form))


def class_files(folder: Path) -> list[Path]:
    """The image files of a class, in alphabetical order.

    Raises:
        DataError: there are none, or something else is there too.
    """
    found = [] if not folder.is_dir() else sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in found if p.name.lower() not in LEFT_BEHIND]
    for p in files:
        if p.is_dir():
            raise DataError(f"{p}: a folder inside of a class; put its images into {folder}, or remove it")
        if p.suffix.lower() not in EXTENSIONS:
            raise DataError(f"{p}: not an image by its name ({', '.join(EXTENSIONS)}); convert or remove it")
    if not files:
        raise DataError(f"{folder}: no images ({', '.join(EXTENSIONS)}); add some or remove the class")
    return files


def read_images(files: Sequence[Path], form: PixelForm) -> np.ndarray:
    """Read image files.

    Args:
        files: at least one.
        form: what their pixels become; without a size they must agree in theirs.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        DataError: an image cannot be read, or has other sides than the first.
    """
    read = partial(_read, form=form)
    if files[0].stat().st_size < SMALL:
        found = list(map(read, files))
    else:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(read, files))
    images = [a for a in found if not isinstance(a, PixelError)]
    bad = [e for e in found if isinstance(e, PixelError)]
    if bad:
        raise DataError(f"{bad[0]} ({len(bad)} of {len(files)} images)") from bad[0]
    for p, a in zip(files, images, strict=True):
        if a.shape != images[0].shape:
            raise DataError(f"{p}: {a.shape[2]}x{a.shape[1]} pixels, {files[0]} has other sides; give --size to resize all")
    return np.stack(images)


def _read(path: Path, form: PixelForm) -> np.ndarray | PixelError:
    try:
        return read_pixels(path, form)
    except PixelError as e:
        return e
