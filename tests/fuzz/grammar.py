"""Every option of every command, read from the classes that the parser is made of, and strategies for wrong and odd lines."""

import importlib
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from tyro.conf import Positional

from bitplane.cli import COMMANDS

ODD = [
    "",
    " ",
    "-",
    "--",
    "nan",
    "x" * 3000,
    "\x1b[2J\x07",
    "a\nb\u202e",
    "\udcff",
    "名",
    "{0}%s",
    "--json",
    "[1]",
    "None",
    "a=b",
    "*",
    "/",
]
"""Texts that are no good value of anything."""
WHOLE = [0, 1, 2, 3, 8, 32, -1, -3, 255, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63) - 1]
WHOLE_TEXT = ["1.5", "1e3", "inf", "٣", "0x10", "1_0", "+1", " 7", "9" * 5000, "true"]
REAL_TEXT = [
    "0",
    "-0.0",
    "0.5",
    "1",
    "90",
    "-1",
    "inf",
    "-inf",
    "nan",
    "1e400",
    "1e308",
    "1e-320",
    "0x1p3",
    "1,5",
    "1_0.0",
    "١.٥",
]
NAMES = [
    "digits",
    "cifar10",
    "none",
    "tensorboard",
    "wandb",
    "onnxruntime float32",
    "small",
    "*",
    "0.2ms",
    "1e9s",
    "-1us",
    "ternary",
]


@dataclass(frozen=True)
class Option:
    """An option, or an argument without a name.

    Attributes:
        flag: as it is written; "" for an argument.
        kind: type of one value.
        many: whether it takes any number of values.
        choices: the values that there are; () if they are not listed.
        required: whether a line without it is refused.
        numeric: `int`, `float` or None.
    """

    flag: str
    kind: type
    many: bool
    choices: tuple[Any, ...]
    required: bool

    @property
    def numeric(self) -> type | None:
        return self.kind if self.kind in (int, float) and not self.choices else None


def options(command: str) -> list[Option]:
    """The options of a command."""
    return list(_options(importlib.import_module(f"bitplane.cli.{command}").Options))


def _options(owner: type):
    hints = get_type_hints(owner, include_extras=True)
    for f in fields(owner):
        hint, marks = _unwrapped(hints[f.name])
        if any("Suppress" in str(m) or "Fixed" in str(m) for m in marks):
            continue
        if is_dataclass(hint):
            yield from _options(hint)
            continue
        positional = any(m is get_args(Positional[int])[1] for m in marks)
        many = get_origin(hint) is tuple
        kind = _unwrapped(get_args(hint)[0])[0] if many else hint
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        kind = type(choices[0]) if choices else kind
        required = str(f.default).startswith("<dataclasses._MISSING") and str(f.default_factory).startswith(
            "<dataclasses._MISSING"
        )
        yield Option("" if positional else "--" + f.name.replace("_", "-"), kind, many, choices, required)


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations and None, and the annotations."""
    marks: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            marks += more
        elif get_origin(hint) in (Union, types.UnionType):
            (hint,) = [a for a in get_args(hint) if a is not type(None)]
        else:
            return hint, marks


def values(option: Option, paths: list[str]) -> st.SearchStrategy[str]:
    """Texts for one value, half of them of the right type."""
    odd = st.sampled_from(ODD)
    if option.choices:
        return st.sampled_from([str(c) for c in option.choices]) | odd
    if option.kind is int:
        return st.sampled_from(WHOLE).map(str) | st.integers(-3, 40).map(str) | st.sampled_from(WHOLE_TEXT) | odd
    if option.kind is float:
        return st.sampled_from(REAL_TEXT) | st.floats(0, 1).map(str) | odd
    if option.kind is Path:
        return st.sampled_from(paths) | st.sampled_from(paths) | odd
    return st.sampled_from(NAMES) | st.sampled_from(paths) | odd


def words(option: Option, paths: list[str]) -> st.SearchStrategy[list[str]]:
    """An option with its values, as words of a line."""
    if option.kind is bool:
        return st.sampled_from([[option.flag], [option.flag], ["--no-" + option.flag[2:]], [option.flag, "True"]])
    value = values(option, paths)
    found = st.lists(value, max_size=3) if option.many else st.lists(value, min_size=1, max_size=1)
    if not option.flag:
        return found
    joined = value.map(lambda v: [f"{option.flag}={v}"])
    return found.map(lambda v: [option.flag, *v]) | joined if not option.many else found.map(lambda v: [option.flag, *v])


def lines(paths: list[str], good: Callable[[str, Option], list[str]]) -> st.SearchStrategy[list[str]]:
    """Command lines: required options mostly as they should be, up to four others, now and then one of another command."""
    every = [o for name in COMMANDS for o in options(name) if o.flag]

    @st.composite
    def line(draw: Any) -> list[str]:
        name = draw(st.sampled_from(COMMANDS))
        mine = options(name)
        parts = [good(name, o) if draw(st.integers(0, 3)) else draw(words(o, paths)) for o in mine if o.required]
        parts += draw(st.lists(st.sampled_from(mine).flatmap(lambda o: words(o, paths)), max_size=4))
        if draw(st.integers(0, 9)) == 7:
            parts.append(draw(st.sampled_from(every).flatmap(lambda o: words(o, paths))))
        if draw(st.integers(0, 3)) == 0:
            parts = draw(st.permutations(parts))
        debugged = ["--bedug"] if draw(st.integers(0, 60)) == 43 else []
        return [*debugged, name, *(word for part in parts for word in part)]

    return line()
