"""What ONNX's layers of weights are read as."""

from collections.abc import Callable

import numpy as np

from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.read.construction import Value
from bitplane.export.read.onnx_node import OnnxNode


def conv(node: OnnxNode) -> Value | None:
    """`Conv`, with the `Pad` in front of it."""
    weight = node.constants.layer_weight(node.proto.input[1])
    a = node.a
    stored = weight.integers if weight.floats is None else weight.floats
    if stored is None or stored.ndim != 4 or any(d != 1 for d in a.get("dilations", ())):
        return None
    o = weight.shape[0]
    bias = node.constant(2).astype(np.float64).reshape(-1) if node.has(2) else np.zeros(o)
    strides, group = tuple(a.get("strides", (1, 1))), int(a.get("group", 1))
    if node.proto.input[0] in node.context.padded:
        if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or any(a.get("pads", ())):
            raise node.refuse("pads what a Pad has padded; merge the two")
        x, final, pad_value = node.context.padded[node.proto.input[0]]
    else:
        x, final, pad_value = node.x, node.window_pads(weight.shape[2:], strides), 0.0
    # A convolution over its whole input is a fully connected layer, as which QONNX's Quant weights are often written.
    dense = group == 1 and not any(final) and node.shape(x)[1:] == weight.shape[2:]
    fill = pad_value if any(final) else 0.0
    layer = Conv(node.name, x.name, weight, bias, strides, final, group, fill, dense)  # type: ignore[arg-type]
    return node.builder.add(layer, flat=x.flat)


def pad(node: OnnxNode) -> Value | None:
    """`Pad` of channels, or in space in front of convolutions alone."""
    x, pads = node.x, node.constant(1).tolist()
    value = node.scalar(2) if node.has(2) else 0.0
    if node.a.get("mode", b"constant") != b"constant" or len(pads) != 8 or min(pads) < 0 or pads[0] or pads[4]:
        return None
    top, left, bottom, right = pads[2], pads[3], pads[6], pads[7]
    if not any((top, left, bottom, right)) and value == 0:
        return node.add(PadShortcut(node.name, x.name, (1, 1), pads[1], pads[5]))
    if pads[1] or pads[5]:
        return None
    output = node.proto.output[0]
    readers = [n.op_type for n in node.context.graph.node if output in n.input]
    if set(readers) != {"Conv"}:
        return None
    node.context.padded[output] = (x, (top, left, bottom, right), value)
    return x


def gemm(node: OnnxNode) -> Value | None:
    """`Gemm` on a flattened value."""
    a = node.a
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0) or not node.x.flat:
        return None
    return _dense(node, not a.get("transB", 0), node.has(2))


def matmul(node: OnnxNode) -> Value | None:
    """`MatMul` of a flattened value with a constant."""
    return _dense(node, True, False) if node.x.flat else None


def _dense(node: OnnxNode, transpose: bool, has_bias: bool) -> Value:
    shape = node.shape(node.x)
    values = node.constant(1)
    rows = values.T if transpose else values
    if rows.shape[1] != int(np.prod(shape)):
        raise node.refuse(f"takes {rows.shape[1]} features, its input has shape {list(shape)}")
    weight = node.constants.layer_weight(node.proto.input[1], (len(rows), *shape), transpose)
    given = node.constant(2).astype(np.float64) if has_bias else np.zeros(1)
    if given.size not in (1, len(rows)):
        raise node.refuse(f"has a bias of shape {list(given.shape)} for {len(rows)} outputs")
    bias = np.broadcast_to(given.reshape(-1), (len(rows),))
    return node.builder.add(Conv(node.name, node.x.name, weight, bias, dense=True), flat=True)


def batch_norm(node: OnnxNode) -> Value | None:
    """`BatchNormalization`."""
    gamma, beta, mean, variance = (node.constant(i).astype(np.float64) for i in range(1, 5))
    shape = node.shape(node.x)
    if len(shape) != 3 or len(gamma) != shape[0] or len(node.proto.output) != 1:
        return None  # of flattened pixels
    factor = gamma / np.sqrt(variance + node.a.get("epsilon", 1e-5))
    return node.add(Affine(node.name, node.x.name, factor, beta - mean * factor))


OPERATORS: dict[str, Callable[[OnnxNode], Value | None]] = {
    "Conv": conv,
    "Pad": pad,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_norm,
}
