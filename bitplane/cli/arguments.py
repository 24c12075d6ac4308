"""Which options a command was given: a value equal to its default may have been asked for, or not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_NAMES: ContextVar[frozenset[str]] = ContextVar("names", default=frozenset())


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
