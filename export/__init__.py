"""Export: a network from training, torch, ONNX or QONNX to one ONNX file whose weights are packed bit-planes (`FORMAT.md`).

`export_run` takes the folder of a finished run, `export_file` a file of somebody else's, `to_onnx` a network in memory. All
check the file against its source before they write it.
"""

from bitplane.export.errors import ExportError
from bitplane.export.exporter import ExportReport, LayerReport, Origin, evenly, export_file, export_run, to_onnx
from bitplane.export.quantize import Quantization

__all__ = [
    "ExportError",
    "ExportReport",
    "LayerReport",
    "Origin",
    "Quantization",
    "evenly",
    "export_file",
    "export_run",
    "to_onnx",
]
