"""From words to options: the parser, the ranges of numbers, and which options a command was given.

A value that is equal to its default may have been asked for, or not: `given` knows.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from bitplane.cli.output import UsageError, show_refusal

T = TypeVar("T")

_NAMES: ContextVar[frozenset[str]] = ContextVar("names", default=frozenset())


@dataclass(frozen=True)
class Within:
    """The range of a number, both ends included: `Annotated[int, Within(1, 8)]` is an option that takes 1 to 8."""

    low: float
    high: float

    def check(self, flag: str, value: float) -> None:
        """Refuse a number that is out of range or none.

        Raises:
            UsageError: names the option, its value and the limit.
        """
        if not self.low <= value <= self.high:
            limit = f"at least {self.low:g}" if value < self.low else f"at most {self.high:.15g}"
            raise UsageError(f"{flag} {value}: must be {limit if value == value else 'a number'}")


def parse(options: type[T], prog: str, words: Sequence[str]) -> T:
    """The options of a command.

    Args:
        options: their dataclass; numbers that are annotated by `Within` are checked.
        prog: what the command is called in messages.
        words: of the command line.

    Raises:
        UsageError: a number is out of its range.
        SystemExit: with 0 after --help; with 2 after words that are no options, which the parser has explained.
    """
    import tyro

    held = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    try:
        with redirect_stderr(held):
            found = tyro.cli(options, prog=prog, args=list(words), config=(tyro.conf.OmitArgPrefixes,))
    except AssertionError as e:  # of --tyro-print-completion for a shell that there is not
        raise UsageError(str(e)) from e
    finally:
        held.seek(0)
        show_refusal(held.read())
    check_ranges(found)
    return found


def check_ranges(options: Any) -> None:
    """Check the numbers of a dataclass, and of those in it, that are annotated by `Within`.

    Raises:
        UsageError: one is out of its range.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for f in fields(options):
        value, limits = getattr(options, f.name), within(hints[f.name])
        if is_dataclass(value):
            check_ranges(value)
        elif limits is not None and value is not None:
            for number in value if isinstance(value, tuple) else (value,):
                limits.check("--" + f.name.replace("_", "-"), number)


def within(hint: Any) -> Within | None:
    """The range in an annotation, of a number, of several, or of one that may be missing."""
    marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((m for m in marks if isinstance(m, Within)), None) or next(filter(None, map(within, get_args(hint))), None)


@contextmanager
def remembered(arguments: Sequence[str]) -> Iterator[None]:
    """Within the block `given` answers for this command line."""
    flags = [a.partition("=")[0].removeprefix("--").replace("-", "_") for a in arguments if a.startswith("--")]
    token = _NAMES.set(frozenset(flags) | {f.removeprefix("no_") for f in flags})
    try:
        yield
    finally:
        _NAMES.reset(token)


def given() -> frozenset[str]:
    """Names of the options that stand on the command line, as the parameters they set: "batch_size" for --batch-size."""
    return _NAMES.get()
