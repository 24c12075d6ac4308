"""The meaning of every `bitplane` operator as an ONNX model-local function of standard operators (opset 18).

`export` writes these functions into files and `runtime` takes a node for ours only if the file's function of its name is the one
here, up to the names of values: a file may define an operator of the same name that means something else.

Attributes reach inside by `ref_attr_name`: a `Constant` whose `value_ints` refers to the attribute. onnxruntime folds the
unpacking of planes away when it loads a file. Value names are short because they are stored in every file.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from bitplane.runtime import format as fmt


def function(name: str) -> FunctionProto:
    """The function of the `bitplane` operator `name`.

    Raises:
        KeyError: the format has no such operator.
    """
    return _BODIES[name](name)


def signature(proto: FunctionProto) -> bytes:
    """What a function means, without the names of its values and nodes: equal for two functions of the same body.

    Nodes in their order, each with its domain, operator, attributes in order of their names, and its inputs and outputs as numbers in
    order of first appearance.
    """
    numbers: dict[str, int] = {"": 0}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    def attribute(a: AttributeProto) -> tuple[object, ...]:
        if a.type == AttributeProto.TENSOR and not a.ref_attr_name:
            value = numpy_helper.to_array(a.t)
            return a.name, a.type, str(value.dtype), value.shape, value.tobytes()
        return a.name, a.ref_attr_name, a.type, a.i, a.f, a.s, tuple(a.ints), tuple(a.floats), tuple(a.strings)

    inputs = [number(i) for i in proto.input]
    nodes = [
        (
            n.domain,
            n.op_type,
            n.overload,
            [number(i) for i in n.input],
            sorted(attribute(a) for a in n.attribute),
            [number(o) for o in n.output],
        )
        for n in proto.node
    ]
    outputs = [number(o) for o in proto.output]
    opsets = sorted((o.domain, o.version) for o in proto.opset_import)
    known = (
        proto.domain,
        proto.name,
        proto.overload,
        inputs,
        sorted(proto.attribute),
        len(proto.attribute_proto),
        nodes,
        outputs,
        opsets,
    )
    return repr(known).encode()


@cache
def known_signature(name: str) -> bytes:
    """`signature` of our own function `name`."""
    return signature(function(name))


def _node(op: str, inputs: Sequence[str], output: str, **attributes: int | str | list[int] | TensorProto) -> NodeProto:
    node = helper.make_node(op, list(inputs), [output])
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def _constant(output: str, value: ArrayLike, dtype: type[np.generic] = np.int64) -> NodeProto:
    return _node("Constant", [], output, value=numpy_helper.from_array(np.asarray(value, dtype)))


def _refer(node: NodeProto, **attributes: str) -> NodeProto:
    """Let integer-list attributes of `node` refer to attributes of the function, by name."""
    for name, source in attributes.items():
        node.attribute.append(AttributeProto(name=name, ref_attr_name=source, type=AttributeProto.INTS))
    return node


def _parameter(output: str, attribute: str) -> NodeProto:
    """An int64 vector with the values of the function's attribute."""
    return _refer(_node("Constant", [], output), value_ints=attribute)


def _make(name: str, inputs: Sequence[str], nodes: Sequence[NodeProto], attributes: Sequence[str] = ()) -> FunctionProto:
    opset = helper.make_opsetid("", fmt.OPSET_VERSION)
    return helper.make_function(fmt.DOMAIN, name, list(inputs), ["y"], list(nodes), [opset], list(attributes))


def _epilogue(convolution: NodeProto) -> list[NodeProto]:
    """The integer convolution to `a`, then float32(a) * scale + bias."""
    return [
        _refer(convolution, strides="strides", pads="pads"),
        _node("Cast", ["a"], "f", to=TensorProto.FLOAT),
        _node("Mul", ["f", "scale"], "m"),
        _node("Add", ["m", "bias"], "y"),
    ]


def _pixel_conv(name: str) -> FunctionProto:
    convolution = _node("ConvInteger", ["x", "w", "z"], "a")
    return _make(name, ["x", "w", "z", "scale", "bias"], _epilogue(convolution), ["strides", "pads"])


def _unpack_prologue() -> list[NodeProto]:
    return [
        _parameter("S", "weight_shape"),
        _constant("0", [0]),
        _constant("1", [1]),
        _constant("2", [2]),
        _constant("4", [4]),
        _constant("R", [0, -1]),
        _constant("B", [[list(range(8))]], np.uint8),
        _constant("I", 1, np.uint8),
        _node("Slice", ["S", "1", "4"], "T"),
        _node("ReduceProd", ["T"], "K"),
    ]


def _unpack(plane: str, output: str) -> list[NodeProto]:
    """Plane uint8 [O, Kb] to its bits as int8 [O, C, kh, kw]."""
    p = plane
    return [
        _node("Unsqueeze", [p, "2"], p + "u"),
        _node("BitShift", [p + "u", "B"], p + "s", direction="RIGHT"),
        _node("BitwiseAnd", [p + "s", "I"], p + "b"),
        _node("Reshape", [p + "b", "R"], p + "r"),
        _node("Slice", [p + "r", "0", "K", "1"], p + "k"),
        _node("Reshape", [p + "k", "S"], p + "n"),
        _node("Transpose", [p + "n"], p + "t", perm=[0, 3, 1, 2]),
        _node("Cast", [p + "t"], output, to=TensorProto.INT8),
    ]


def _low_bit(name: str, planes: Sequence[str], weight: Sequence[NodeProto]) -> FunctionProto:
    """A convolution on codes, or the weight alone, by its name."""
    nodes = _unpack_prologue()
    for plane in planes:
        nodes += _unpack(plane, plane + "i")
    nodes += weight
    if name in (fmt.BINARY_WEIGHT, fmt.TERNARY_WEIGHT, fmt.QUATERNARY_WEIGHT):
        nodes += [_node("Cast", ["w"], "f", to=TensorProto.FLOAT), _node("Mul", ["f", "unit"], "y")]
        return _make(name, [*planes, "unit"], nodes, ["weight_shape"])
    nodes += _epilogue(_node("ConvInteger", ["x", "w"], "a"))
    return _make(name, ["x", *planes, "scale", "bias"], nodes, ["weight_shape", "strides", "pads"])


def _binary(name: str) -> FunctionProto:
    weight = [
        _constant("c", 1, np.int8),
        _constant("d", 2, np.int8),
        _node("Mul", ["pi", "d"], "e"),
        _node("Sub", ["c", "e"], "w"),
    ]
    return _low_bit(name, ["p"], weight)


def _ternary(name: str) -> FunctionProto:
    weight = [_constant("d", 2, np.int8), _node("Mul", ["pi", "d"], "e"), _node("Sub", ["qi", "e"], "w")]
    return _low_bit(name, ["p", "q"], weight)


def _quaternary(name: str) -> FunctionProto:
    base, first, second = fmt.QUATERNARY_TENTHS
    weight = [
        _constant("c", base, np.int8),
        _constant("d", first, np.int8),
        _constant("e", second, np.int8),
        _node("Mul", ["pi", "d"], "g"),
        _node("Mul", ["qi", "e"], "h"),
        _node("Add", ["g", "h"], "j"),
        _node("Add", ["c", "j"], "w"),
    ]
    return _low_bit(name, ["p", "q"], weight)


def _quantize(name: str) -> FunctionProto:
    nodes = [
        _parameter("t", "top"),
        _node("Cast", ["t"], "u", to=TensorProto.UINT8),
        _constant("z", 0, np.uint8),
        _node("QuantizeLinear", ["x", "step", "z"], "q"),
        _node("Min", ["q", "u"], "y"),
    ]
    return _make(name, ["x", "step"], nodes, ["top"])


def _sign(name: str) -> FunctionProto:
    nodes = [
        _constant("z", 0, np.float32),
        _node("GreaterOrEqual", ["x", "z"], "b"),
        _node("Cast", ["b"], "y", to=TensorProto.UINT8),
    ]
    return _make(name, ["x"], nodes)


def _pad_shortcut(name: str) -> FunctionProto:
    nodes = [
        _parameter("s", "steps"),
        _parameter("p", "pads"),
        _constant("b", [0, 0]),
        _constant("e", [np.iinfo(np.int64).max] * 2),
        _constant("a", [2, 3]),
        _node("Slice", ["x", "b", "e", "a", "s"], "c"),
        _node("Pad", ["c", "p"], "y"),
    ]
    return _make(name, ["x"], nodes, ["steps", "pads"])


def _normalize(name: str) -> FunctionProto:
    nodes = [
        _node("Cast", ["x"], "f", to=TensorProto.FLOAT),
        _node("Sub", ["f", "mean"], "s"),
        _node("Div", ["s", "std"], "y"),
    ]
    return _make(name, ["x", "mean", "std"], nodes)


def _fake_quantize(name: str) -> FunctionProto:
    nodes = [
        _parameter("l", "limits"),
        _node("Cast", ["l"], "f", to=TensorProto.FLOAT),
        _constant("i", 0),
        _constant("j", 1),
        _node("Gather", ["f", "i"], "low"),
        _node("Gather", ["f", "j"], "high"),
        _node("Div", ["x", "step"], "d"),
        _node("Round", ["d"], "r"),
        _node("Clip", ["r", "low", "high"], "c"),
        _node("Mul", ["c", "step"], "y"),
    ]
    return _make(name, ["x", "step"], nodes, ["limits"])


def _int8_weight(name: str) -> FunctionProto:
    return _make(name, ["w", "unit"], [_node("Cast", ["w"], "f", to=TensorProto.FLOAT), _node("Mul", ["f", "unit"], "y")])


def _bipolar(name: str) -> FunctionProto:
    nodes = [
        _constant("z", 0, np.float32),
        _node("GreaterOrEqual", ["x", "z"], "b"),
        _node("Neg", ["scale"], "n"),
        _node("Where", ["b", "scale", "n"], "y"),
    ]
    return _make(name, ["x", "scale"], nodes)


_BODIES: dict[str, Callable[[str], FunctionProto]] = {
    fmt.PIXEL_CONV: _pixel_conv,
    fmt.BINARY_CONV: _binary,
    fmt.TERNARY_CONV: _ternary,
    fmt.QUATERNARY_CONV: _quaternary,
    fmt.QUANTIZE: _quantize,
    fmt.SIGN: _sign,
    fmt.PAD_SHORTCUT: _pad_shortcut,
    fmt.NORMALIZE: _normalize,
    fmt.FAKE_QUANTIZE: _fake_quantize,
    fmt.BIPOLAR: _bipolar,
    fmt.BINARY_WEIGHT: _binary,
    fmt.TERNARY_WEIGHT: _ternary,
    fmt.QUATERNARY_WEIGHT: _quaternary,
    fmt.INT8_WEIGHT: _int8_weight,
}
