"""Files and folders that are whole or not there: written under another name beside their place, flushed to the disk, renamed.

The other name is .NAME.<16 random digits>.tmp, made anew and never through a link, so nobody can plant something there. Its
writer holds a lock on it (`flock`) that ends with the process: whoever writes to the same place next removes what a killed
writer left. The older file or folder is there until the new one is.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bitplane.errors import BitplaneError

if sys.platform != "win32":
    import fcntl

TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""A temporary name; the group is the start of the name it stands for."""
MAX_STEM = 50
"""Characters of a name that its temporary name repeats: both fit into a folder's 255 bytes."""


def write_file(path: Path, data: bytes, error: type[BitplaneError]) -> None:
    """Write a file, whole or not at all; an older one is replaced.

    Args:
        path: the file; its folder must be there.
        data: its bytes.
        error: what is raised.

    Raises:
        BitplaneError: of type `error`: the path is no regular file, its folder is missing or not writable, or the disk is
            full. The older file is as before, and nothing else is left behind.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path}: exists and is not a regular file; choose another path")
        replace_file(path, data)
    except (OSError, ValueError) as e:  # ValueError: a path with a zero byte
        reason = (e.strerror or e) if isinstance(e, OSError) else e
        raise error(f"{path}: cannot be written ({reason}); free some space or choose another path") from e


def replace_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """`write_file` for callers with errors of their own.

    Args:
        path: the file.
        data: its bytes.
        mode: permissions of the new file, less those of the process's mask.

    Raises:
        OSError: it cannot be written.
    """
    sweep(path.parent, path.name)
    handle, temporary = _create(path, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
            if sys.platform != "win32":
                os.replace(temporary, path)  # while the lock is held
        finally:
            with suppress(OSError):
                os.close(handle)  # what was written is on the disk already
        if sys.platform == "win32":
            os.replace(temporary, path)  # which no open file can be there
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _flush_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder for the block to fill with files, which appears at `path` when the block ends; an older one is replaced.

    Args:
        path: the folder; those above it are made.

    Yields:
        The folder under its temporary name. If the block raises, it is removed.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    temporary, lock = _temporary(path), None
    os.mkdir(temporary)
    try:
        lock = _lock_folder(temporary)
        yield temporary
        for file in [*temporary.iterdir(), temporary]:
            _flush(file)
        older = _rename_over(temporary, path)
    except BaseException:
        _delete(temporary)
        raise
    finally:
        if lock is not None:
            with suppress(OSError):
                os.close(lock)
    _flush_folder(path.parent)
    if older is not None:
        _delete(older)


def remove_folder(path: Path) -> None:
    """Remove a folder at once: it is renamed, then deleted. What cannot be deleted goes with the next `sweep`.

    Raises:
        OSError: it cannot be renamed.
    """
    gone = _temporary(path)
    os.rename(path, gone)
    _delete(gone)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove temporary files and folders whose writers are dead; what cannot be removed stays.

    Args:
        folder: where they lie.
        name: of the file or folder that they were to become; None for all.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = TEMPORARY.fullmatch(entry.name)
            if match and (name is None or match[1] == name[:MAX_STEM]):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path), entry.is_dir(follow_symlinks=False))


def _delete(folder: Path) -> None:
    """Delete a folder as far as it can be."""
    with suppress(OSError):  # `ignore_errors` ignores most
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:MAX_STEM]}.{os.urandom(8).hex()}.tmp")


def _create(path: Path, mode: int) -> tuple[int, Path]:
    """A new file under a temporary name, locked."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = _temporary(path)
        handle = os.open(temporary, flags, mode)
        try:
            if _lock(handle) and os.fstat(handle).st_nlink:
                return handle, temporary
        except BaseException:
            os.unlink(temporary)
            os.close(handle)
            raise
        os.close(handle)  # another process swept it before it was locked


def _lock(handle: int) -> bool:
    """Lock an open file or folder; False if another process has the lock. Where there are no locks nobody sweeps."""
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _lock_folder(path: Path) -> int | None:
    if sys.platform == "win32":
        return None
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    _lock(handle)
    return handle


def _remove_if_left(path: Path, is_folder: bool) -> None:
    """Remove a temporary file or folder if nobody holds its lock."""
    if sys.platform == "win32":
        if not is_folder:
            path.unlink()  # which Windows refuses while it is open
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            _delete(path)
        else:
            path.unlink()
    finally:
        os.close(handle)


def _rename_over(new: Path, path: Path) -> Path | None:
    """Rename a folder to `path`; the name that the older one has now."""
    older = _temporary(path) if os.path.lexists(path) else None
    if older is not None:
        os.rename(path, older)
    try:
        os.rename(new, path)
    except BaseException:
        if older is not None:
            with suppress(OSError):
                os.rename(older, path)
        raise
    return older


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder. What is renamed is there whether this succeeds or not."""
    if sys.platform != "win32":
        with suppress(OSError):
            _flush(path)
