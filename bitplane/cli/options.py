"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from bitplane.train.config import DataConfig
    from bitplane.train.data import Dataset

JsonFile = Annotated[Path | None, arg(metavar="FILE")]
"""Where a command writes its result as JSON; every command has it, as `--json`."""
OutputPath = Annotated[Path, arg(aliases=["-o"])]
"""What a command makes, as `--output` or `-o`."""
Model = Positional[Path]
"""A packed file."""


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
    size: int = 0
    download: bool = False

    def config(self, name: str = "") -> "DataConfig":
        """These images, or those called `name` where no `data` were given."""
        from bitplane.train.config import DataConfig

        return DataConfig(self.data or name, self.data_dir, self.download, self.size)

    def load(self, name: str = "") -> "Dataset":
        """Load them; the arguments and errors are those of `config` and `bitplane.train.data.load_data`."""
        from bitplane.train.data import load_data

        return load_data(self.config(name))
