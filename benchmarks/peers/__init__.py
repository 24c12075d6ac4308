"""The engines that a study compares, one a module, each optional.

A module has `load(file, threads, purpose) -> Loaded`; it is imported in a process of its own (`benchmarks/worker.py`), so that
engines share no thread pool, no memory and no crash. A new engine is a module and a line in `ENGINES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Purpose = Literal["stream", "offline"]
Form = Literal["packed", "inlined", "float", "int8", "nncf", "tflite", "tflite8", "layer"]


@dataclass(frozen=True)
class Loaded:
    """An engine with a file open.

    Attributes:
        run: uint8 [N, C, H, W] to logits float32 [N, classes]; for a layer, nothing to its output.
        version: of the engine.
        settings: what was set.
        note: what a reader must know.
        multiply_adds: of one call, for a layer.
    """

    run: Callable[..., Any]
    version: str
    settings: dict[str, str] = field(default_factory=dict)
    note: str = ""
    multiply_adds: int = 0


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    Attributes:
        module: module of `bitplane.benchmarks.peers`.
        form: what it opens: the packed file, the same with functions inlined, the float twin, or that twin in int8.
        variant: passed to the module's `load`.
        install: what `pip install` needs.
        takes: of a layer's engine: the "LEVELS/BITS" it computes, as a regular expression.
    """

    module: str
    form: Form
    variant: str = ""
    install: str = ""
    takes: str = ".*"


ENGINES: dict[str, Engine] = {
    "bitplane": Engine("own", "packed"),
    "onnxruntime float32": Engine("ort", "float", install="onnxruntime"),
    "onnxruntime int8": Engine("ort", "int8", install="onnxruntime"),
    "onnxruntime, packed file": Engine("ort", "packed", install="onnxruntime"),
    "OpenVINO": Engine("vino", "float", install="openvino"),
    "OpenVINO float32": Engine("vino", "float", "f32", "openvino"),
    "OpenVINO int8": Engine("vino", "nncf", install="openvino nncf"),
    "OpenVINO int8 QDQ": Engine("vino", "int8", install="openvino"),
    "OpenVINO, packed file": Engine("vino", "inlined", install="openvino"),
    "torch eager": Engine("eager", "float", install="torch onnx2torch"),
    "torch compiled": Engine("eager", "float", "compiled", "torch onnx2torch"),
    "LiteRT float32": Engine("litert", "tflite", install="ai-edge-litert litert-torch onnx2torch"),
    "LiteRT int8": Engine("litert", "tflite8", install="ai-edge-litert litert-torch ai-edge-quantizer onnx2torch"),
}

LAYER_ENGINES: dict[str, Engine] = {
    "bitplane": Engine("layers", "layer", "bitplane"),
    "register loop": Engine("layers", "layer", "limit"),
    "OpenVINO BinaryConvolution": Engine("layers", "layer", "openvino", "openvino", takes="binary/1"),
    "bnn-lab": Engine("layers", "layer", "bnn_lab", "bnn-lab", takes="(binary|ternary)/1"),
    "onnxruntime MatMulNBits": Engine("layers", "layer", "matmulnbits", "onnxruntime", takes="(ternary|quaternary)/.*"),
}
