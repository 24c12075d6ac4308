"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from bitplane.cli.arguments import Within
from bitplane.format.limits import MAX_SIDE

if TYPE_CHECKING:
    from bitplane.train.config import DataConfig
    from bitplane.train.data import Dataset

JsonFile = Annotated[Path | None, arg(metavar="FILE")]
"""Where a command writes its result as JSON; every command has it, as `--json`."""
OutputPath = Annotated[Path, arg(aliases=["-o"])]
"""What a command makes, as `--output` or `-o`."""
Model = Positional[Path]
"""A packed file."""


# Numbers: their ranges are checked in one place (`arguments.check_ranges`), before a command begins.
Count = Annotated[int, Within(1, 1_000_000)]
"""Of images, rounds, epochs or threads."""
CountOrNone = Annotated[int, Within(0, 1_000_000)]
"""0 for none."""
Side = Annotated[int, Within(1, MAX_SIDE)]
"""Pixels of a side."""
SideOrOwn = Annotated[int, Within(0, MAX_SIDE)]
"""Pixels of a side; 0 for an image's own."""
Percent = Annotated[float, Within(0, 100)]
Pixel = Annotated[float, Within(0, 255)]
"""Mean of pixel values."""
Spread = Annotated[float, Within(1e-6, 1e6)]
"""Standard deviation of pixel values."""
Bytes = Annotated[int, Within(1, 1 << 40)]
"""Size of a file."""

DATA_SETS = ("digits", "cifar10", "cifar100")
"""Names of data sets; any other name is a folder's path."""


@dataclass(frozen=True)
class DataOptions:
    """The images.

    Attributes:
        data: digits, cifar10, cifar100, or the path of a folder train/<class>/* and test/<class>/*.
        data_dir: where torchvision's CIFAR files are, or are put.
        size: side in pixels to which the images of a folder are resized; 0 takes what the network takes where that is known, or
            else keeps theirs, which must then agree.
        download: download CIFAR if it is not in `data_dir`.
    """

    data: str | None = None
    data_dir: str = "data"
    size: SideOrOwn = 0
    download: bool = False

    def config(self, name: str = "") -> "DataConfig":
        """These images, or those called `name` where no `data` were given."""
        from bitplane.train.config import DataConfig

        return DataConfig(self.data or name, self.data_dir, self.download, self.size)

    def load(self, name: str = "") -> "Dataset":
        """Load them; the arguments and errors are those of `config` and `bitplane.train.data.load_data`."""
        from bitplane.train.data import load_data

        return load_data(self.config(name))
