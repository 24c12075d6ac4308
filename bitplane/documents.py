"""JSON and TOML files of people and of other programs: bounded, read once, and checked against a type by msgspec.

A type is a class of msgspec, a dataclass or a standard container; what msgspec checks in it is checked at every depth. Numbers
are finite, text is Unicode without unpaired surrogates, and a JSON object has each name once.
"""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bitplane.errors import BitplaneError
from bitplane.format.errors import FileError
from bitplane.format.files import read_file

MAX_DOCUMENT = 1 << 26
"""Bytes of the largest document read; the study in `docs` has 200,000."""

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a document is, for messages.

    Attributes:
        name: "an experiment description".
        remedy: what to do about one that cannot be read.
        error: what is raised.
    """

    name: str
    remedy: str
    error: type[BitplaneError]


def read_json(path: Path, form: type[T], kind: Kind) -> T:
    """Read a JSON file.

    Args:
        path: the file.
        form: its type.
        kind: what it is, for messages.

    Raises:
        BitplaneError: of `kind.error`: missing, too large, no JSON, or not of its type; names the file, and the field.
    """
    return _read(path, form, kind, _parse_json)


def read_toml(path: Path, form: type[T], kind: Kind) -> T:
    """Read a TOML file; arguments and errors are those of `read_json`."""
    return _read(path, form, kind, tomllib.loads)


def _read(path: Path, form: type[T], kind: Kind, parse: Callable[[str], Any]) -> T:
    try:
        value = parse(read_file(path, MAX_DOCUMENT).decode())
        _check(value, "$")
        return msgspec.convert(value, form)
    except FileError as e:
        raise kind.error(f"{path}: {e}; {kind.remedy}") from None
    except RecursionError:
        raise kind.error(f"{path}: not {kind.name}: it is nested too deeply; {kind.remedy}") from None
    except ValueError as e:  # of msgspec, json, tomllib and `_check`
        problem = str(e)
        raise kind.error(f"{path}: not {kind.name}: {problem[:1].lower()}{problem[1:]}; {kind.remedy}") from e


def _check(value: Any, where: str) -> None:
    """Refuse numbers and text that JSON and TOML do not have, but Python's parsers do."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number - at `{where}`")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # an unpaired surrogate
    if isinstance(value, dict):
        for name, entry in value.items():
            _check(name, where)
            _check(entry, f"{where}.{name}")
    if isinstance(value, list):
        for i, entry in enumerate(value):
            _check(entry, f"{where}[{i}]")


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(n for n in names if names.count(n) > 1)}` is there twice")
    return found
