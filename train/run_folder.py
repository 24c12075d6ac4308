"""The folder of a run while it is trained: one process at a time, and RUN/log.jsonl with one object an epoch."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bitplane.atomic import replace_file
from bitplane.train.checkpoint import writing
from bitplane.train.errors import RunTakenError
from bitplane.train.models.python_file import COPY, PythonFile
from bitplane.train.prepare import Preparation


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run within the block: no other process can train into its folder. The lock ends with the process at the latest.

    Args:
        run: folder of the run, which need not exist; the lock is the file .NAME.lock beside it. If the folder is absent
            after the block too, what was made for the lock is removed again.

    Raises:
        RunTakenError: another process holds it.
        CheckpointError: the lock cannot be written.
    """
    folder = run.resolve()
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    with writing(run):
        made = [p for p in folder.parents if not p.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as e:
            raise RunTakenError(f"{run}: another process is training into this folder; wait or choose another folder") from e
    try:
        yield
    finally:
        with suppress(OSError):
            if not folder.exists():
                Path(lock.lock_file).unlink(missing_ok=True)
                for parent in made:
                    parent.rmdir()
        with suppress(OSError):
            lock.release()


def write_about(run: Path, preparation: Preparation, code: PythonFile | None) -> None:
    """Write what a run trains: RUN/prepared.json, and RUN/model.py, a copy of the Python file that makes the network.

    Raises:
        CheckpointError: it cannot be written.
    """
    with writing(run):
        replace_file(run / "prepared.json", (json.dumps(asdict(preparation), indent=1) + "\n").encode())
        if code is not None:
            replace_file(run / COPY, code.data)


def append_to_log(run: Path, entry: dict[str, Any]) -> None:
    """Add an epoch to the log of a run: its whole line, or nothing.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = run / "log.jsonl"
    with writing(path):
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a") as log:
                log.write(json.dumps(entry) + "\n")
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise


def shorten_log(run: Path, epochs: int) -> None:
    """Leave the first `epochs` lines: an epoch after the newest checkpoint may have been logged before the run was killed.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = run / "log.jsonl"
    if not path.is_file():
        return
    with writing(path):
        lines = path.read_text().splitlines(keepends=True)[:epochs]
        replace_file(path, "".join(lines).encode())
