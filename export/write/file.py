"""Write a file whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

from bitplane.export.errors import ExportError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Raises:
        ExportError: the folder is missing or not writable, the disk is full, or `path` is a folder or device; nothing is left
            behind, and a file that was at `path` is as before.
    """
    if path.exists() and not path.is_file():
        raise ExportError(f"{path}: exists and is not a regular file; choose another path")
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; a model file gets the usual rights instead.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as e:
        raise ExportError(f"{path}: cannot be written ({e.strerror or e}); free some space or choose another path") from e
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
