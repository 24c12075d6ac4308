"""What an export reports: the file, how it compares with its source, and how every layer was written."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from bitplane.export.graph import Written
from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv


@dataclass(frozen=True)
class LayerReport:
    """One convolution or fully connected layer of the file.

    Attributes:
        name: its name.
        operator: operator that computes it.
        levels: level set of its weight, "int8" or "float".
        weight_shape: [O, C / group, kh, kw].
        bytes: of its weight, scale and bias in the file.
        reason: why it computes in floating point; "" if it does not.
    """

    name: str
    operator: str
    levels: str
    weight_shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares with the source.

    Attributes:
        path: the file.
        form: "packed", "inlined", "dequantized" or "qonnx".
        bytes: its size.
        samples: images of the self-check.
        top1_agreement: share of the samples on which onnxruntime on the file and the source name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against the quantized network with the file's activation codes: rounding only.
        reference_max_logit_difference: the same.
        reference_code_mismatch: largest share of a quantizer's codes that differ from that reference's.
        unrunnable: why `bitplane.runtime` does not run the file; "" if it does.
        layers: the convolutions and fully connected layers in order.
    """

    path: str
    form: str
    bytes: int
    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float
    reference_code_mismatch: float
    unrunnable: str
    layers: tuple[LayerReport, ...]


def report_layers(file: onnx.ModelProto, network: Network, written: Mapping[str, Written]) -> tuple[LayerReport, ...]:
    """How every convolution and fully connected layer of `network` stands in `file`."""
    sizes = {t.name: prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in file.graph.initializer}
    layers: list[LayerReport] = []
    for conv in (n for n in network.nodes if isinstance(n, Conv)):
        own = sum(size for name, size in sizes.items() if name.rpartition(".")[0] == conv.name)
        how = written[conv.name]
        layers.append(LayerReport(conv.name, how.operator, conv.weight.levels, conv.weight.shape, own, how.reason))
    return tuple(layers)
