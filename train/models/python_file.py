"""A network from a Python file of the user's: `mynet.py:build`, a function that returns it.

Whoever names a file has it run. A name that stands in a folder of somebody else's does not count: the configuration of a run
says which file its network came from, and holds its SHA-256, but the file is run only if the user names it again.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from bitplane.errors import BitplaneError
from bitplane.format.errors import FileError
from bitplane.format.files import read_file
from bitplane.train.config import ModelConfig, TrainConfig
from bitplane.train.errors import ConfigError

MAX_SOURCE = 1 << 24
"""Bytes of the largest file that is read."""
COPY = "model.py"
"""Of the file, in the folder of a run."""


@dataclass(frozen=True)
class PythonFile:
    """A file that the user has named, as it was read: what is run is what was hashed.

    Attributes:
        path: as it was named.
        function: that returns the network.
        data: its bytes.
    """

    path: str
    function: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Of the file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def read_python(config: ModelConfig) -> PythonFile | None:
    """Read the file that `model` names; None if it names no file. Nothing is run.

    Raises:
        ConfigError: it cannot be read.
    """
    source = config.source
    if source.kind != "file":
        return None
    try:
        data = read_file(Path(source.name), MAX_SOURCE)
    except FileError as e:
        raise ConfigError(f"model '{config.model}': {source.name} {e}") from e
    return PythonFile(source.name, source.function, data)


def with_digest(config: TrainConfig, code: PythonFile | None) -> TrainConfig:
    """The configuration with the SHA-256 of the file that makes the network."""
    return replace(config, model=replace(config.model, model_sha256=code.sha256 if code else ""))


def check_named(config: ModelConfig, code: PythonFile | None, run: Path) -> None:
    """Refuse to load a run whose network is of a Python file, unless the user has named that very file.

    Args:
        config: of the run.
        code: what the user has named.
        run: folder of the run, for messages.

    Raises:
        ConfigError: nothing was named, or another file or function.
    """
    source = config.source
    if source.kind != "file":
        return
    if code is None:
        raise ConfigError(
            f"{run}: its network is made by a Python file, which runs only if you name it: add --model {config.model} (its copy"
            f" is {run / COPY}: read it before you run it, if the run is not yours)"
        )
    if code.function != source.function:
        raise ConfigError(f"{run}: its network is made by function {source.function}, not {code.function}, of {code.path}")
    if code.sha256 != config.model_sha256:
        raise ConfigError(
            f"{code.path}: is not the file that {run} was trained with (another SHA-256); its copy is {run / COPY}"
        )


def call(code: PythonFile, options: Mapping[str, Any]) -> nn.Module:
    """Run a file and call its function.

    Args:
        code: the file.
        options: arguments that the function gets as far as it takes them.

    Raises:
        ConfigError: whatever the file or the function raise, or what it returns is no module.
    """
    module = ModuleType(f"bitplane_model_{code.sha256[:16]}")
    module.__file__ = code.path
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up
    try:
        exec(compile(code.data, code.path, "exec"), module.__dict__)
    except SyntaxError as e:
        raise ConfigError(f"{code.path}: line {e.lineno or 0}: {e.msg}") from e
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"{code.path}: cannot be run ({e}); install it, or name its folder in PYTHONPATH: the file is run by itself"
        ) from e
    except (Exception, SystemExit) as e:
        raise ConfigError(f"{code.path}: cannot be run ({_said(e)})") from e
    function = vars(module).get(code.function)
    if not callable(function):
        found = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise ConfigError(f"{code.path}: has no function {code.function}; its functions are {', '.join(found) or 'none'}")
    try:
        made = function(**_taken(function, options))
    except BitplaneError:
        raise
    except (Exception, SystemExit) as e:
        raise ConfigError(f"{code.path}: {code.function} cannot be called ({_said(e)})") from e
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{code.path}: {code.function} returns a {type(made).__name__}; it must return an nn.Module")
    return made


def _taken(function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a function has parameters for."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(options)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {k: v for k, v in options.items() if k in by_name}


def _said(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
