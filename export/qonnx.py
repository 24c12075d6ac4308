"""QONNX's operators and what they mean (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops).

Values are real numbers; a weight is an initializer of the values it has, followed by a `Quant` that leaves them as they are and
says how few bits they need.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    helper,
    numpy_helper,
    version_converter,
)

from bitplane.export.errors import ExportError

if TYPE_CHECKING:
    from bitplane.export.graph import GraphBuilder

DOMAIN = "qonnx.custom_op.general"
DOMAIN_VERSION = 1
QONNX_DOMAINS = (DOMAIN, "onnx.brevitas", "finn.custom_op.general")
"""Domains under which tools have written the same operators."""
OLDEST_OPSET = 13
"""Opset that has every operator of their meaning."""


def signed_bits(largest: int) -> int:
    """Bits of a signed, narrow `Quant` that leaves integers up to this magnitude as they are: 5 for quaternary's -10 to 10."""
    return largest.bit_length() + 1


@dataclass(frozen=True)
class Quant:
    """The options of a `Quant` of zero point 0.

    Attributes:
        bits: of its integers.
        signed: whether they may be negative.
        narrow: whether the range leaves out its extreme: the smallest signed, the largest unsigned.
    """

    bits: int
    signed: bool
    narrow: bool

    def write(self, graph: "GraphBuilder", name: str, value: str, scale: str) -> str:
        """Append the node and return its value's name."""
        inputs = [value, scale, graph.scalar("quant.zero_point", 0), graph.scalar(f"quant.bits_{self.bits}", self.bits)]
        given = {"narrow": int(self.narrow), "rounding_mode": "ROUND", "signed": int(self.signed)}
        return graph.node("Quant", name, inputs, DOMAIN, **given)


def runnable(model: ModelProto) -> ModelProto:
    """A QONNX model with the meaning of `Quant` and `BipolarQuant` as model-local functions, so that onnxruntime runs it.

    A model without them is returned as it is. Their meaning takes operators of opset 13, to which an older model is converted.

    Raises:
        ExportError: a Quant rounds by another mode than ROUND.
    """
    if not any(n.domain in QONNX_DOMAINS for n in model.graph.node):
        return model
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    out = ModelProto()
    out.CopyFrom(model if version >= OLDEST_OPSET else version_converter.convert_version(model, OLDEST_OPSET))
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
        return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(np.asarray(value, np.float32)))

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
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.asarray(0, np.float32))),
        helper.make_node("GreaterOrEqual", ["x", "zero"], ["b"]),
        helper.make_node("Neg", ["scale"], ["negative"]),
        helper.make_node("Where", ["b", "scale", "negative"], ["y"]),
    ]
    return helper.make_function(DOMAIN, "BipolarQuant", ["x", "scale"], ["y"], nodes, [opset])
