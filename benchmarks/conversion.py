"""The files that engines open, made from a packed file or its float twin by a peer's `convert`.

Each is made in a process of its own, `python -m bitplane.benchmarks.conversion MODULE VARIANT SOURCE IMAGES OUT`: converters
are large, and some fail.
"""

import hashlib
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.peers import Conversion


def convert(conversion: Conversion, source: Path, images: Path, folder: Path) -> Path:
    """The converted file, made unless it is there already from the same file and images; whole or not at all.

    Args:
        conversion: how.
        source: the packed or float file.
        images: calibration images, .npy, uint8 [N, C, H, W].
        folder: where to write.

    Raises:
        PeerError: a converter is missing or failed.
    """
    made_of = hashlib.sha256(source.read_bytes() + images.read_bytes()).hexdigest()[:8]
    kind = f"{conversion.module.rpartition('.')[2]}-{conversion.variant}"
    out = folder / f"{source.stem}-{made_of}-{kind}{conversion.suffix}"
    if out.exists():
        return out
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / out.name
        command = [sys.executable, "-m", "bitplane.benchmarks.conversion", conversion.module, conversion.variant]
        done = subprocess.run([*command, source, images, made], capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not made.exists():
            lines = [s.strip() for s in done.stderr.splitlines() if s.strip()] or ["no message"]
            raise PeerError(f"conversion: {lines[-1]}")
        for file in sorted(Path(temporary).iterdir()):  # weights (.bin) before what names them (.xml)
            file.replace(folder / file.name)
    return out


def file_bytes(file: Path) -> int:
    """Bytes of an engine's file, with the weights beside an .xml."""
    weights = file.with_suffix(".bin")
    return file.stat().st_size + (weights.stat().st_size if file.suffix == ".xml" and weights.exists() else 0)


def main(module: str, variant: str, source: Path, images: Path, out: Path) -> None:
    """Make one file."""
    import numpy as np

    importlib.import_module(module).convert(source, np.load(images), out, variant)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
