"""What commands print and write: lines, tables, JSON and text files; and the error for an argument that cannot be used.

Nothing else in `bitplane.cli` prints. Every line goes through `bitplane.format.text`: names and metadata come from files of
strangers.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitplane.atomic import write_file
from bitplane.errors import BitplaneError
from bitplane.format.text import plain

MAX_LINE = 10_000
"""Characters of a printed line."""


class UsageError(BitplaneError):
    """An argument that cannot be used."""


def say(line: str = "") -> None:
    """Print one line; what is not printable in it, a line break too, is spelled."""
    print(plain(line, MAX_LINE))


def complain(line: str) -> None:
    """Print one line on standard error, after the program's name; white space of any length becomes one space."""
    print(f"bitplane: {plain(' '.join(line.split()), MAX_LINE)}", file=sys.stderr)


def show_refusal(text: str) -> None:
    """Print what the parser says of words that are no options, on standard error; it quotes them."""
    for line in text.splitlines():
        print(plain(line, MAX_LINE), file=sys.stderr)


def say_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> None:
    """Print columns as wide as their widest cell; those in `right` are aligned to the right."""
    lines = [[plain(text) for text in line] for line in (heads, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = (text.rjust(w) if i in right else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True)))
        say("  ".join(cells).rstrip())


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; no path, no file."""
    if path is not None:
        write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        UsageError: the path is no regular file, or cannot be written.
    """
    write_file(path, data, UsageError)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        UsageError: something else is there, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{path}: exists and is not a folder; choose another path") from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be made ({e.strerror}); choose another path") from e
