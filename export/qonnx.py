"""QONNX out: the network with `Quant` and `BipolarQuant` nodes on float values, as FINN and hls4ml read it.

Values are real numbers; a weight is an initializer of the values it has, followed by a Quant that leaves them as they are and
says how few bits they need (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops). QONNX has no integer images:
the input is float32 holding pixels 0 to 255.
"""

from dataclasses import replace

import numpy as np
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from bitplane.export.builder import GraphBuilder, scalar
from bitplane.export.errors import ExportError
from bitplane.export.floating import write_node
from bitplane.export.network import Conv, Network, Normalize, Quantize, Sign

DOMAIN = "qonnx.custom_op.general"
DOMAIN_VERSION = 1
QONNX_DOMAINS = (DOMAIN, "onnx.brevitas", "finn.custom_op.general")
"""Domains under which tools have written the same operators."""
BITS = {"ternary": 2, "quaternary": 5, "int8": 8}
"""Bits of a signed Quant whose integers hold the level set: quaternary's are -10 to 10."""


def write_qonnx(network: Network) -> ModelProto:
    """Write a network as QONNX (opset 18), without metadata."""
    builder = GraphBuilder()
    for node in network.nodes:
        if isinstance(node, Normalize):
            builder.names[node.name] = _normalize(builder, node)
        elif isinstance(node, Conv) and node.weight.integers is not None:
            builder.names[node.name] = write_node(builder, node, weight=_weight(builder, node))
        elif isinstance(node, Quantize):
            builder.names[node.name] = _quantize(builder, node)
        elif isinstance(node, Sign):
            builder.names[node.name] = _sign(builder, node)
        else:
            builder.names[node.name] = write_node(builder, node)
    return builder.model(replace(network, pixels=False), opsets=((DOMAIN, DOMAIN_VERSION),))


def _quant(b: GraphBuilder, name: str, value: str, scale: str, bits: int, *, signed: bool, narrow: bool) -> str:
    inputs = [value, scale, b.constant("quant.zero_point", scalar(0)), b.constant(f"quant.bits_{bits}", scalar(bits))]
    return b.node("Quant", name, inputs, DOMAIN, narrow=int(narrow), rounding_mode="ROUND", signed=int(signed))


def _normalize(b: GraphBuilder, node: Normalize) -> str:
    value = _quant(
        b, f"{node.name}.bytes", b.names[node.source], b.constant("quant.one", scalar(1)), 8, signed=False, narrow=False
    )
    mean, std = (v.astype(np.float32).reshape(-1, 1, 1) for v in (node.mean, node.std))
    value = b.node("Sub", f"{node.name}.sub", [value, b.constant(f"{node.name}.mean", mean)])
    return b.node("Div", node.name, [value, b.constant(f"{node.name}.std", std)])


def _sign(b: GraphBuilder, node: Sign) -> str:
    value, scale = b.names[node.source], b.constant(f"{node.name}.scale", scalar(node.scale))
    if node.thresholds is not None:
        value = b.node("Sub", f"{node.name}.lowered", [value, b.channels(f"{node.name}.thresholds", node.thresholds)])
    return b.node("BipolarQuant", node.name, [value, scale], DOMAIN)


def _quantize(b: GraphBuilder, node: Quantize) -> str:
    step = b.constant(f"{node.name}.step", scalar(node.step))
    span = node.high - node.low
    bits = span.bit_length()
    narrow = span != 2**bits - 1
    return _quant(b, node.name, b.names[node.source], step, bits, signed=node.low < 0, narrow=narrow)


def _weight(b: GraphBuilder, conv: Conv) -> str:
    w = conv.weight
    assert w.integers is not None
    assert w.unit is not None
    unit = np.abs(w.unit).astype(np.float32).reshape(-1, 1, 1, 1)
    sign = np.where(w.unit < 0, -1, 1).reshape(-1, 1, 1, 1)
    values = b.constant(f"{conv.name}.weight", (w.integers * sign * unit).astype(np.float32))
    scale = b.constant(f"{conv.name}.unit", unit)
    if w.levels == "binary":
        return b.node("BipolarQuant", f"{conv.name}.quant", [values, scale], DOMAIN)
    return _quant(
        b,
        f"{conv.name}.quant",
        values,
        scale,
        BITS[w.levels],
        signed=True,
        narrow=w.levels != "int8" or w.integers.min() > -128,
    )


def runnable(model: ModelProto) -> ModelProto:
    """A QONNX model with the meaning of `Quant` and `BipolarQuant` as model-local functions, so that onnxruntime runs it.

    Raises:
        ExportError: a Quant rounds by another mode than ROUND.
    """
    out = ModelProto()
    out.CopyFrom(model)
    used: set[str] = set()
    for node in out.graph.node:
        if node.domain not in QONNX_DOMAINS:
            continue
        node.domain = DOMAIN
        used.add(node.op_type)
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Quant":
            mode = given.pop("rounding_mode", b"ROUND")
            if mode != b"ROUND":
                raise ExportError(f"node '{node.name}' rounds by {mode!r}; only ROUND is supported")
            del node.attribute[:]
            node.attribute.extend(helper.make_attribute(k, int(given.get(k, d))) for k, d in (("signed", 1), ("narrow", 0)))
    kept = [o for o in out.opset_import if o.domain not in QONNX_DOMAINS]
    del out.opset_import[:]
    out.opset_import.extend([*kept, helper.make_opsetid(DOMAIN, DOMAIN_VERSION)])
    opset = next(o for o in kept if o.domain in ("", "ai.onnx"))
    out.functions.extend(
        f(opset) for name, f in (("Quant", _quant_function), ("BipolarQuant", _bipolar_function)) if name in used
    )
    out.ir_version = max(out.ir_version, 8)
    return out


def _attribute_value(output: str, name: str) -> list[NodeProto]:
    """The function's integer attribute as a float32 scalar."""
    node = helper.make_node("Constant", [], [f"{output}_int"])
    node.attribute.append(AttributeProto(name="value_int", ref_attr_name=name, type=AttributeProto.INT))
    return [node, helper.make_node("Cast", [f"{output}_int"], [output], to=TensorProto.FLOAT)]


def _quant_function(opset: OperatorSetIdProto) -> FunctionProto:
    """For signed s, narrow n and bits b: clip(round(x / scale + zero), s (n - 2^(b-1)), 2^(b-s) - 1 - (1-s) n), and back."""

    def op(kind: str, inputs: str, output: str) -> NodeProto:
        return helper.make_node(kind, inputs.split(), [output])

    def constant(output: str, value: float) -> NodeProto:
        return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(scalar(value)))

    nodes = [
        *_attribute_value("s", "signed"),
        *_attribute_value("n", "narrow"),
        constant("one", 1),
        constant("two", 2),
        op("Sub", "bits one", "below"),
        op("Pow", "two below", "half"),
        op("Sub", "n half", "lowest"),
        op("Mul", "s lowest", "low_any"),
        op("Sub", "bits s", "up"),
        op("Pow", "two up", "above"),
        op("Sub", "above one", "highest"),
        op("Sub", "one s", "unsigned"),
        op("Mul", "unsigned n", "less"),
        op("Sub", "highest less", "high_any"),
        op("ReduceMax", "low_any", "low"),
        op("ReduceMax", "high_any", "high"),
        op("Div", "x scale", "divided"),
        op("Add", "divided zero", "shifted"),
        op("Round", "shifted", "rounded"),
        op("Max", "rounded low", "at_least"),
        op("Min", "at_least high", "code"),
        op("Sub", "code zero", "centered"),
        op("Mul", "centered scale", "y"),
    ]
    for node in nodes:
        if node.op_type == "ReduceMax":
            node.attribute.append(helper.make_attribute("keepdims", 0))
    return helper.make_function(DOMAIN, "Quant", ["x", "scale", "zero", "bits"], ["y"], nodes, [opset], ["signed", "narrow"])


def _bipolar_function(opset: OperatorSetIdProto) -> FunctionProto:
    nodes = [
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(scalar(0))),
        helper.make_node("GreaterOrEqual", ["x", "zero"], ["b"]),
        helper.make_node("Neg", ["scale"], ["negative"]),
        helper.make_node("Where", ["b", "scale", "negative"], ["y"]),
    ]
    return helper.make_function(DOMAIN, "BipolarQuant", ["x", "scale"], ["y"], nodes, [opset])
