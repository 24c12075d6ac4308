"""The images that a study calibrates, times and tests with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bitplane.train.data import Dataset

LabeledImages = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images [N, C, H, W] and labels [N]."""

CALIBRATION = 256
"""Images that int8 peers are calibrated on."""


@dataclass(frozen=True)
class Images:
    """A group's images.

    Attributes:
        name: of the data set; "" for random pixels.
        calibration: uint8 [N, C, H, W]; the first are timed.
        test: images and labels int64 [N], or None.
        classes: names of the classes, by label; () where they are the network's own.
    """

    name: str
    calibration: npt.NDArray[np.uint8]
    test: LabeledImages | None
    classes: tuple[str, ...] = ()


def random_images(shape: tuple[int, ...]) -> Images:
    """64 images [C, H, W] of random pixels, for latency only."""
    return Images("", np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8), None)


class ImageSource:
    """Data sets by name; the last one is kept.

    Args:
        load: the data set of a name.
    """

    def __init__(self, load: "Callable[[str], Dataset]") -> None:
        self._load = load
        self._kept: dict[str, Dataset] = {}

    def dataset(self, name: str) -> "Dataset":
        """The whole data set, for groups that train."""
        if name not in self._kept:
            self._kept.clear()
            self._kept[name] = self._load(name)
        return self._kept[name]

    def images(self, name: str) -> Images:
        """Calibration images spread evenly over the training split, and the whole test split."""
        from bitplane.export import evenly_spaced

        found = self.dataset(name)
        test = found.test.images.numpy(), found.test.labels.numpy()
        return Images(found.name, evenly_spaced(found.train.images, CALIBRATION).numpy(), test, found.classes)
