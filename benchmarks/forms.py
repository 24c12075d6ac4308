"""The files that engines open, made from a packed file or its float twin.

    packed -> inlined (functions expanded)
    float  -> int8 (onnxruntime's QDQ), nncf (OpenVINO's format), tflite and tflite8 (LiteRT)

Each is made in a process of its own, `python -m bitplane.benchmarks.forms FORM SOURCE IMAGES OUT`: converters are large, and
some fail.
"""

import subprocess
import sys
from pathlib import Path

from bitplane.benchmarks.contest import PeerError

SUFFIX = {"inlined": ".onnx", "int8": ".onnx", "nncf": ".xml", "tflite": ".tflite", "tflite8": ".tflite"}


def make_form(form: str, source: Path, images: Path, folder: Path) -> Path:
    """The file of a form, made unless it is there.

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
    out = folder / f"{source.stem}-{form}{SUFFIX[form]}"
    if out.exists():
        return out
    command = [sys.executable, "-m", "bitplane.benchmarks.forms", form, str(source), str(images), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0 or not out.exists():
        lines = [s.strip() for s in done.stderr.splitlines() if s.strip()] or ["no message"]
        raise PeerError(f"conversion: {lines[-1]}")
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
