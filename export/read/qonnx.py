"""What QONNX's quantizers are read as: on a value a quantizer, on a constant an integer weight."""

from collections.abc import Callable

import numpy as np

from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.relu import Relu
from bitplane.export.nodes.sign import Sign
from bitplane.export.read.construction import Value
from bitplane.export.read.onnx_node import OnnxNode


def quant(node: OnnxNode) -> Value:
    """`Quant` of one scale."""
    step, zero = node.constant(1), node.scalar(2)
    if step.size != 1 or zero != 0:
        raise node.refuse("activations with a scale a channel or a zero point are not supported")
    low, high = node.constants.code_range(node.proto)
    producer = next((n for n in node.builder.nodes if n.name == node.x.name), None)
    # A signed range of values that are never negative is an unsigned one.
    low = 0 if isinstance(producer, Relu) else low
    return _tapped(node, Quantize(node.name, node.x.name, float(np.float32(step.reshape(()))), high, low))


def bipolar(node: OnnxNode) -> Value:
    """`BipolarQuant`."""
    return _tapped(node, Sign(node.name, node.x.name, node.scalar(1)))


def _tapped(node: OnnxNode, quantizer: Quantize | Sign) -> Value:
    out = node.add(quantizer)
    node.context.taps[out.name] = node.proto.output[0]
    return out


OPERATORS: dict[str, Callable[[OnnxNode], Value | None]] = {"Quant": quant, "BipolarQuant": bipolar}
