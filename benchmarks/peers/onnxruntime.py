"""onnxruntime: a float32 or packed file, and its own static int8 quantization (QDQ) of the float32 file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bitplane.benchmarks.peers import Loaded, Purpose


def session(source: str | bytes, threads: int) -> ort.InferenceSession:
    """An onnxruntime session on the CPU with `threads` intra-op threads and all graph optimizations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def load(file: str, threads: int, purpose: Purpose, variant: str = "") -> Loaded:
    """Open an ONNX file."""
    opened = session(file, threads)
    name = opened.get_inputs()[0].name
    settings = {"intra_op_num_threads": str(threads), "graph_optimization_level": "all", "execution_mode": "sequential"}
    return Loaded(lambda x: opened.run(None, {name: x})[0], ort.__version__, settings)


class _Samples:
    def __init__(self, name: str, images: npt.NDArray[np.uint8]) -> None:
        self.rest: Iterator[dict[str, npt.NDArray[np.uint8]]] = iter([{name: images[i : i + 1]} for i in range(len(images))])

    def get_next(self) -> Any:
        return next(self.rest, None)


def convert(source: Path, images: npt.NDArray[np.uint8], out: Path, variant: str = "int8") -> None:
    """Quantize a float32 file statically to int8 QDQ form, one scale an output channel, calibrated on `images`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Samples, CalibrationDataReader):
        pass

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        reader = Reader(session(str(source), 1).get_inputs()[0].name, images)
        quantize_static(str(prepared), str(out), reader, quant_format=QuantFormat.QDQ, per_channel=True)
