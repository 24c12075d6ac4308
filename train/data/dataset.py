"""What a loaded data set is."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A training and a test split with what the network must know about them.

    Attributes:
        name: short name that goes into the packed file.
        zero_point: pixel that the network sees as 0; also the padding of random crops.
        pixel_scale: pixels that the network sees as 1.
        flip: whether mirrored images are images of the same class.
        crop: pixels of padding for random crops.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    zero_point: int
    pixel_scale: float
    flip: bool
    crop: int
