"""The engines that a study compares, each optional: `PEERS` run networks, `LAYER_PEERS` run one layer.

A peer is a module with `load(file, threads, purpose, variant) -> Loaded` and a row here; if it opens files of its own format,
the module also has `convert(source, images, out, variant)` and the row says from what. Both run in processes of their own
(`measuring/worker.py`, `conversion.py`), so that engines share no thread pool, no memory and no crash. A module outside of this
package takes part after `register("its name", Peer("its.module", ...))`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from bitplane.benchmarks.errors import PeerError

Purpose = Literal["stream", "offline"]
"""One image at a time, or many at hand."""

HERE = "bitplane.benchmarks.peers"


@dataclass(frozen=True)
class Loaded:
    """An engine with a file open.

    Attributes:
        run: uint8 [N, C, H, W] to logits float32 [N, classes]; for a layer, nothing to its output.
        version: of the engine.
        settings: what was set.
        note: what a reader must know.
        multiply_adds: of one call, for a layer.
        product: what multiplies, for a layer of bitplane: "popcount", "look-up" or "bytes".
    """

    run: Callable[..., Any]
    version: str
    settings: dict[str, str] = field(default_factory=dict)
    note: str = ""
    multiply_adds: int = 0
    product: str = ""


@dataclass(frozen=True)
class Conversion:
    """How a file of another format is made.

    Attributes:
        module: whose `convert` makes it.
        variant: passed to it.
        suffix: of the file.
    """

    module: str
    variant: str
    suffix: str


@dataclass(frozen=True)
class Peer:
    """A row of the table.

    Attributes:
        module: Python module with `load`.
        source: what it starts from: the "packed" file, its "float" twin, or a "layer" by its name.
        conversion: how the file it opens is made from that; None if it opens the source itself.
        variant: passed to `load`.
        bits: of its weights and activations, where they are not those of a packed file: 32 or 8.
        install: what `pip install` needs.
        takes: of a layer's engine: the "LEVELS/BITS" it computes, as a regular expression.
    """

    module: str
    source: Literal["packed", "float", "layer"]
    conversion: Conversion | None = None
    variant: str = ""
    bits: int = 32
    install: str = ""
    takes: str = ".*"


INLINED = Conversion(f"{HERE}.openvino", "inlined", ".onnx")
NNCF = Conversion(f"{HERE}.openvino", "nncf", ".xml")
QDQ = Conversion(f"{HERE}.onnxruntime", "int8", ".onnx")
TFLITE = Conversion(f"{HERE}.litert", "float32", ".tflite")
TFLITE_INT8 = Conversion(f"{HERE}.litert", "int8", ".tflite")

_ORT, _VINO, _TORCH, _LITERT, _LAYERS = (f"{HERE}.{m}" for m in ("onnxruntime", "openvino", "torch", "litert", "layers"))
_LITERT_INSTALL = "ai-edge-litert litert-torch onnx2torch"

OWN = "bitplane"
"""Name of our own engine."""

PEERS: dict[str, Peer] = {
    OWN: Peer(f"{HERE}.bitplane", "packed"),
    "onnxruntime float32": Peer(_ORT, "float", install="onnxruntime"),
    "onnxruntime int8": Peer(_ORT, "float", QDQ, bits=8, install="onnxruntime"),
    "onnxruntime, packed file": Peer(_ORT, "packed", install="onnxruntime"),
    "OpenVINO": Peer(_VINO, "float", install="openvino"),
    "OpenVINO float32": Peer(_VINO, "float", variant="f32", install="openvino"),
    "OpenVINO int8": Peer(_VINO, "float", NNCF, bits=8, install="openvino nncf"),
    "OpenVINO int8 QDQ": Peer(_VINO, "float", QDQ, bits=8, install="openvino"),
    "OpenVINO, packed file": Peer(_VINO, "packed", INLINED, install="openvino"),
    "torch eager": Peer(_TORCH, "float", install="torch onnx2torch"),
    "torch compiled": Peer(_TORCH, "float", variant="compiled", install="torch onnx2torch"),
    "LiteRT float32": Peer(_LITERT, "float", TFLITE, install=_LITERT_INSTALL),
    "LiteRT int8": Peer(_LITERT, "float", TFLITE_INT8, bits=8, install=f"{_LITERT_INSTALL} ai-edge-quantizer"),
}
"""Name of an engine to the peer; `register` adds to it."""

LAYER_PEERS: dict[str, Peer] = {
    OWN: Peer(_LAYERS, "layer", variant="bitplane"),
    "register loop": Peer(_LAYERS, "layer", variant="limit"),
    "OpenVINO BinaryConvolution": Peer(_LAYERS, "layer", variant="openvino", install="openvino", takes="binary/1"),
    "bnn-lab": Peer(_LAYERS, "layer", variant="bnn_lab", install="bnn-lab", takes="(binary|ternary)/1"),
    "onnxruntime MatMulNBits": Peer(
        _LAYERS, "layer", variant="matmulnbits", install="onnxruntime", takes="(ternary|quaternary)/.*"
    ),
}
"""The same for engines of a layer by itself; `register` adds to it."""


def register(name: str, peer: Peer) -> None:
    """Add an engine to the table of its kind.

    Args:
        name: what descriptions and results call it.
        peer: the engine.

    Raises:
        PeerError: the name is taken.
    """
    table = LAYER_PEERS if peer.source == "layer" else PEERS
    if name in table:
        raise PeerError(f"an engine is called '{name}' already; choose another name")
    table[name] = peer


def missing_packages(peer: Peer) -> str:
    """Packages that a peer needs and that are not installed, as `pip install` takes them."""
    from importlib.metadata import PackageNotFoundError, version

    missing: list[str] = []
    for package in peer.install.split():
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    return " ".join(missing)
