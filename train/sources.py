"""Where a network comes from, as `model` names it: the package's own ResNets, torchvision, timm, or a Python file.

Needs no torch, and runs nothing: a name is only taken apart here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitplane.train.errors import ConfigError

PACKAGES = ("torchvision", "timm")
SUFFIX = ".py"


@dataclass(frozen=True)
class ModelSource:
    """A network's name, taken apart.

    Attributes:
        kind: "own", a package, or "file".
        name: of the architecture, or the path of the file.
        function: of the file, which returns the network; "" for the others.
    """

    kind: Literal["own", "torchvision", "timm", "file"]
    name: str
    function: str = ""

    @property
    def label(self) -> str:
        """The name as `model` has it, without the folders of a file: they are those of one machine."""
        if self.kind == "file":
            return f"{Path(self.name).name}:{self.function}"
        return self.name if self.kind == "own" else f"{self.kind}:{self.name}"


def model_source(model: str, own: Iterable[str]) -> ModelSource:
    """Take a network's name apart.

    Args:
        model: one of `own`, torchvision:NAME, timm:NAME, or FILE.py:FUNCTION.
        own: names of the package's networks.

    Raises:
        ConfigError: it is none of these.
    """
    if model in own:
        return ModelSource("own", model)
    before, colon, after = model.rpartition(":")
    if before.endswith(SUFFIX) and after.isidentifier():
        return ModelSource("file", before, after)
    if model.endswith(SUFFIX) or before.endswith(SUFFIX):
        raise ConfigError(f"model '{model}': give the function of the file that returns the network, as FILE.py:FUNCTION")
    package, colon, name = model.partition(":")
    for known in PACKAGES:
        if colon and package == known and name:
            return ModelSource(known, name)
    raise ConfigError(
        f"model '{model}' is unknown; choose one of {', '.join(own)}, torchvision:NAME, timm:NAME or FILE.py:FUNCTION"
    )
