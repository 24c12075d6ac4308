"""The files that engines open, made from a packed file or its float twin.

    packed -> inlined (functions expanded)
    float  -> int8 (onnxruntime's QDQ), nncf (OpenVINO's format), tflite and tflite8 (LiteRT)

Each is made in a process of its own, `python -m bitplane.benchmarks.forms FORM SOURCE IMAGES OUT`: converters are large, and
some fail.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from bitplane.benchmarks.errors import PeerError

SUFFIX = {"inlined": ".onnx", "int8": ".onnx", "nncf": ".xml", "tflite": ".tflite", "tflite8": ".tflite"}


def make_form(form: str, source: Path, images: Path, folder: Path) -> Path:
    """The file of a form, made unless it is there already from the same file and images; whole or not at all.

    Args:
        form: "packed" and "float" are the source itself.
        source: the packed or float file.
        images: calibration images, .npy, uint8 [N, C, H, W].
        folder: where to write.

    Raises:
        PeerError: a converter is missing or failed.
    """
    if form in ("packed", "float"):
        return source
    made_of = hashlib.sha256(source.read_bytes() + images.read_bytes()).hexdigest()[:8]
    out = folder / f"{source.stem}-{made_of}-{form}{SUFFIX[form]}"
    if out.exists():
        return out
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / out.name
        command = [sys.executable, "-m", "bitplane.benchmarks.forms", form, str(source), str(images), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not made.exists():
            lines = [s.strip() for s in done.stderr.splitlines() if s.strip()] or ["no message"]
            raise PeerError(f"conversion: {lines[-1]}")
        for file in sorted(Path(temporary).iterdir()):  # weights (.bin) before what names them (.xml)
            file.replace(folder / file.name)
    return out


def size(file: Path) -> int:
    """Bytes of a form's file, with the weights beside an .xml."""
    weights = file.with_suffix(".bin")
    return file.stat().st_size + (weights.stat().st_size if file.suffix == ".xml" and weights.exists() else 0)


def main(form: str, source: Path, images: Path, out: Path) -> None:
    """Make one form."""
    import numpy as np

    samples = np.load(images)
    if form == "inlined":
        import onnx
        import onnx.inliner

        onnx.save(onnx.inliner.inline_local_functions(onnx.load(source)), out)
    elif form == "int8":
        from bitplane.benchmarks.peers.ort import int8_qdq

        out.write_bytes(int8_qdq(str(source), samples))
    elif form == "nncf":
        from bitplane.benchmarks.peers.vino import int8_nncf

        int8_nncf(source, samples, out)
    else:
        from bitplane.benchmarks.peers.litert import convert

        convert(source, samples, out, form == "tflite8")


if __name__ == "__main__":
    main(sys.argv[1], *(Path(a) for a in sys.argv[2:]))
