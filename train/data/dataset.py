"""What a loaded data set is."""

from dataclasses import dataclass, replace

from torch import Tensor

from bitplane.train.config import TrainConfig


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
        train: what is trained on.
        test: what is tested on.
        classes: names of the classes, by label.
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


def with_data(config: TrainConfig, data: Dataset) -> TrainConfig:
    """The configuration with the model's fields that the data determine."""
    channels = data.train.images.shape[1]
    model = replace(
        config.model, classes=len(data.classes), channels=channels, zero_point=data.zero_point, pixel_scale=data.pixel_scale
    )
    return replace(config, model=model)
