"""What the targets share: a file to read back, and the form of a refusal."""

import atexit
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def written(data: bytes, name: str) -> Path:
    """A file of these bytes."""
    path = FOLDER / name
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def one_line(error: Exception, path: Path | None = None) -> None:
    """A refusal as the command line shows it is one printable line, which names the file."""
    from bitplane.format.text import plain

    text = str(error)
    assert text.strip()
    assert path is None or str(path) in text, text
    assert plain(" ".join(text.split()), 10_000).isprintable()
    assert len(text) < 20_000, len(text)
