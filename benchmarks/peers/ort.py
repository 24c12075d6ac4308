"""onnxruntime as a peer: float32, and its own static int8 quantization (QDQ) of the float32 file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static


def session(source: str | bytes, threads: int) -> ort.InferenceSession:
    """An onnxruntime session on the CPU with `threads` intra-op threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class _Samples(CalibrationDataReader):
    def __init__(self, name: str, images: npt.NDArray[np.uint8]) -> None:
        self.rest: Iterator[dict[str, npt.NDArray[np.uint8]]] = iter([{name: images[i : i + 1]} for i in range(len(images))])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:  # type: ignore[override]
        return next(self.rest, None)


def int8_qdq(path: str, images: npt.NDArray[np.uint8]) -> bytes:
    """Quantize a float32 file statically to int8 QDQ form, one scale an output channel, calibrated on `images`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        reader = _Samples(session(path, 1).get_inputs()[0].name, images)
        quantize_static(path, str(out), reader, quant_format=QuantFormat.QDQ, per_channel=True)
        return out.read_bytes()
