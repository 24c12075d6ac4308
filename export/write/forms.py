"""The forms of a file, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx.inliner

from bitplane.export import qonnx
from bitplane.export.graph import GraphBuilder, Written
from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.write.dequantized import write_dequantized
from bitplane.export.write.packed import write_packed
from bitplane.export.write.qonnx import write_qonnx

Form = Literal["packed", "inlined", "dequantized", "qonnx"]


@dataclass(frozen=True)
class _Writer:
    write: Callable[[Network], GraphBuilder]
    float_reason: str = ""
    """Why every convolution computes in floating point, where the form says so."""


_WRITERS: dict[Form, _Writer] = {
    "packed": _Writer(write_packed),
    "inlined": _Writer(write_packed),
    "dequantized": _Writer(write_dequantized, "the form is dequantized"),
    "qonnx": _Writer(write_qonnx, "the form is QONNX"),
}
FORMS = tuple(_WRITERS)
"""Names of all forms."""


def write_model(network: Network, form: Form) -> tuple[onnx.ModelProto, Mapping[str, Written]]:
    """Write a network without metadata.

    Args:
        network: every layer has its final weight.
        form: one of `FORMS`.

    Returns:
        The model, and how every convolution was written.

    Raises:
        ExportError: a factor is not finite in float32.
    """
    writer = _WRITERS[form]
    graph = writer.write(network)
    if form == "qonnx":
        return graph.model(pixels=False, opsets={(qonnx.DOMAIN, qonnx.DOMAIN_VERSION)}), _all_floats(network, writer)
    model = graph.model(pixels=network.pixels)
    if form == "inlined":
        model = onnx.inliner.inline_local_functions(model)
    return model, _all_floats(network, writer) if writer.float_reason else graph.written


def _all_floats(network: Network, writer: _Writer) -> dict[str, Written]:
    return {n.name: Written("Conv", writer.float_reason) for n in network.nodes if isinstance(n, Conv)}
