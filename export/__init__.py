"""Export: a trained network to one ONNX file whose weights are packed bit-planes (`FORMAT.md`).

`export_run` takes the folder of a finished run, `export_model` a network in memory. Both check the file against PyTorch
before they write it.
"""

from bitplane.export.errors import ExportError
from bitplane.export.exporter import ExportReport, LayerReport, Origin, export_model, export_run

__all__ = ["ExportError", "ExportReport", "LayerReport", "Origin", "export_model", "export_run"]
