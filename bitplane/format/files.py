"""Reading a file whose path comes from outside: opened once, a regular file, and no more than its bound."""

import os
import stat
from pathlib import Path

from bitplane.format.errors import FileError


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file, as far as it goes when it is opened.

    Args:
        path: the file; a link to one will do.
        most: bytes of the largest file that is read.

    Raises:
        FileError: it is missing, not to be opened, no regular file, too large, or larger than free memory.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))  # a pipe would block
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise FileError("is not a regular file")
            if found.st_size > most:
                raise FileError(f"has {found.st_size} bytes, at most {most} are read")
            return file.read(found.st_size)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise FileError(f"cannot be read ({error.strerror if isinstance(error, OSError) else error})") from None
    except MemoryError:
        raise FileError("is larger than the memory that this process can have") from None
