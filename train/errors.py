"""Errors of `bitplane.train`: what is wrong, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitplane.errors import BitplaneError


class DataError(BitplaneError):
    """A data set is missing, empty or unreadable."""


class CheckpointError(BitplaneError):
    """A run or checkpoint is missing, damaged, or belongs to another model."""


class RunTakenError(BitplaneError):
    """Another process is training into the folder of a run."""


class ConfigError(BitplaneError):
    """A training option has a value that cannot be used."""


class TrainingError(BitplaneError):
    """A run cannot go on: its loss is no longer finite, or its optimizer was called in a way that it cannot work."""


MEMORY_ERRORS = ("bad_alloc", "DefaultCPUAllocator", "out of memory", "Cannot allocate memory", "digital envelope routines")
"""What torch and OpenSSL, which computes checksums, say of it."""


class OutOfMemoryError(BitplaneError):
    """Training needs more memory than there is."""


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Say in one line that there was not enough memory, which every library says in its own way.

    Args:
        what: what the block does, with a name.

    Raises:
        OutOfMemoryError: the block met a MemoryError, or what torch, OpenSSL, safetensors or ctypes raise in its place.
    """
    try:
        yield
    except BaseException as e:
        if not _is_about_memory(e):
            raise
        raise OutOfMemoryError(f"{what} needs more memory than there is; free some, or use smaller batches") from e


def _is_about_memory(e: BaseException) -> bool:
    if isinstance(e, RuntimeError | ValueError):
        return any(text in str(e) for text in MEMORY_ERRORS)
    return isinstance(e, MemoryError) or type(e).__name__ in ("PanicException", "ArgumentError")
