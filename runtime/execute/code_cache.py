"""The files that machine code is kept in: where they lie, whether they can be trusted, and who writes them.

What the folder holds is executed, so it is used only if it belongs to this user and nobody else can write to it. The folder and
the file are checked by the descriptors that they are read from. Whatever lies in a file's place and is no such file, such as a
link, a pipe or a file of another user, counts as missing, and is replaced.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bitplane.atomic import replace_file

MAGIC = b"bitplane machine code 1\n"
MAX_CODE = 1 << 26
"""Bytes of the largest file that is read; the kernels have 250,000."""
LOCK_SECONDS = 300
"""How long a process waits for another one that compiles: some ten times what compiling takes."""
LOOK_SECONDS = 2
"""How often it looks whether the file is there, written by a third one."""


def cache_folder() -> Path:
    """Where machine code is kept: BITPLANE_CACHE_DIR, or `bitplane` in NUMBA_CACHE_DIR or in the user's cache folder."""
    if given := os.environ.get("BITPLANE_CACHE_DIR"):
        return Path(given).absolute()
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(given).absolute() / "bitplane"
    return user_cache()


def user_cache() -> Path:
    """`bitplane` in the user's cache folder; not an absolute path if the user has no home."""
    from platformdirs import user_cache_path

    return user_cache_path("bitplane", appauthor=False)


def folder_problem(folder: Path) -> str:
    """Why machine code in a folder, which is made if it is not there, cannot be trusted; "" if it can."""
    if not folder.is_absolute():
        return "this user has no home folder"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as e:
        return f"{folder} cannot be made ({e.strerror})"
    if _is_of_others(found):
        return f"{folder} belongs to another user"
    if _is_open_to_others(found):
        return f"{folder} can be written by others (chmod go-w {folder})"
    return ""


def _is_of_others(found: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and found.st_uid != os.geteuid()


def _is_open_to_others(found: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def write_problem(folder: Path) -> str:
    """Why no file can be made in a folder; "" if one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as e:
        return f"{folder} cannot be written ({e.strerror})"


@contextmanager
def locked(file: Path, tell: Callable[[str], None]) -> Iterator[str]:
    """Hold the lock of a file, or go on without: where the file system has no locks, and if the lock is held for too long.

    The worst is compiling twice: a file is written whole whoever writes it.

    Args:
        file: what is to be written.
        tell: is told that this process waits.

    Yields:
        Why the lock is not held although it should be; "" if it is, or if the file has come meanwhile.
    """
    from filelock import FileLock, Timeout

    lock, end, problem = FileLock(f"{file}.lock", mode=0o600), time.monotonic() + LOCK_SECONDS, ""
    while not lock.is_locked:
        try:
            lock.acquire(timeout=LOOK_SECONDS)
        except Timeout:
            tell(f"waiting for another process that compiles kernels, for {LOCK_SECONDS} s at most")
            if read(file) is not None:
                break
            if time.monotonic() >= end:
                problem = f"another process has held {lock.lock_file} for {LOCK_SECONDS} s (end it if it is stopped)"
                break
        except (OSError, NotImplementedError):
            break
    try:
        yield problem
    finally:
        with suppress(OSError):
            lock.release()


def read(file: Path) -> tuple[str, bytes] | None:
    """Symbol and code of a file; None if it is missing, damaged, not this user's, or no regular file."""
    handle = _open(file)
    if handle is None:
        return None
    try:
        with os.fdopen(handle, "rb") as f:
            found = os.fstat(f.fileno())
            if _is_of_others(found) or _is_open_to_others(found) or not stat.S_ISREG(found.st_mode) or found.st_size > MAX_CODE:
                return None
            content = f.read(found.st_size)
    except OSError:
        return None
    head, _, rest = content[len(MAGIC) :].partition(b"\n")
    if not content.startswith(MAGIC) or head.decode("ascii", "replace") != hashlib.sha256(rest).hexdigest():
        return None
    symbol, _, code = rest.partition(b"\n")
    return symbol.decode(), code


def _open(file: Path) -> int | None:
    """A descriptor of a file of a folder that nobody else can write to."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if os.open not in os.supports_dir_fd:
            return os.open(file, flags)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = os.fstat(folder)
            trusted = not (_is_of_others(found) or _is_open_to_others(found))
            return os.open(file.name, flags, dir_fd=folder) if trusted else None
        finally:
            os.close(folder)
    except OSError:
        return None


def write(file: Path, symbol: str, code: bytes) -> str:
    """Write symbol and code.

    Returns:
        Why they could not be written, such as a full disk; "" if they were.
    """
    rest = symbol.encode() + b"\n" + code
    try:
        replace_file(file, MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest, 0o600)
    except OSError as e:
        return f"{file} cannot be written ({e.strerror or e})"
    return ""
