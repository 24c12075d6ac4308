"""Export: a network from training, torch, ONNX or QONNX to one ONNX file whose weights are packed bit-planes (`FORMAT.md`).

`export_run` takes the folder of a finished run, `export_file` a file of somebody else's, `to_onnx` a network in memory: source,
samples, path, and the same options. All check the file against its source before they write it.
"""

from bitplane.export.errors import ExportError
from bitplane.export.exporter import RUN_SAMPLES, export_file, export_run, to_onnx
from bitplane.export.passes.quantize import Quantization
from bitplane.export.read.runs import evenly_spaced
from bitplane.export.report import ExportReport, LayerReport
from bitplane.export.write.metadata import Origin

__all__ = [
    "RUN_SAMPLES",
    "ExportError",
    "ExportReport",
    "LayerReport",
    "Origin",
    "Quantization",
    "evenly_spaced",
    "export_file",
    "export_run",
    "to_onnx",
]
