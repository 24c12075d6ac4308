"""The meaning of every `bitplane` operator as an ONNX model-local function of standard operators (opset 18).

`export` writes these functions into files and `runtime` takes a node for ours only if the file's function of its name is the
one here, up to the names of values: a file may define an operator of the same name that means something else.

Attributes reach inside by `ref_attr_name`: a `Constant` whose `value_ints` refers to the attribute. onnxruntime folds the
unpacking of planes away when it loads a file. Value names are short because they are stored in every file.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from bitplane.format import names as fmt
from bitplane.format.levels import BINARY, QUATERNARY, TERNARY

MINOR = int(fmt.FORMAT_VERSION.split(".")[1])
"""Minor version of the functions that are written."""
ZERO_POINT = 128


def function(name: str, minor: int = MINOR) -> FunctionProto:
    """The function of the `bitplane` operator `name` as format 1.`minor` has it.

    Format 1.1 says the same in operators that onnxruntime 1.17 has too: weights uint8 around a zero point of 128, since it
    lacks `ConvInteger` and arithmetic of int8.

    Raises:
        KeyError: the format has no such operator.
    """
    return _BODIES[name](name, minor)


def signature(proto: FunctionProto) -> bytes:
    """What a function means, without the names of its values and nodes: equal for two functions of the same body.

    Nodes in their order, each with its domain, operator, attributes in order of their names, and its inputs and outputs as
    numbers in order of first appearance.
    """
    numbers: dict[str, int] = {"": 0}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    def attribute(a: AttributeProto) -> tuple[object, ...]:
        if a.t.data_location == TensorProto.EXTERNAL or a.t.external_data:
            return a.name, "external"  # never ours, and not opened
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
            sorted(repr(attribute(a)) for a in n.attribute),
            [number(o) for o in n.output],
        )
        for n in proto.node
    ]
    outputs = [number(o) for o in proto.output]
    opsets = sorted(repr((o.domain, o.version)) for o in proto.opset_import)
    known = (
        proto.domain,
        proto.name,
        proto.overload,
        inputs,
        sorted(map(repr, proto.attribute)),
        len(proto.attribute_proto),
        nodes,
        outputs,
        opsets,
    )
    return repr(known).encode()


@cache
def known_signatures(name: str) -> frozenset[bytes]:
    """`signature` of our own function `name` in every minor version that has it."""
    return frozenset(signature(function(name, minor)) for minor in range(_SINCE.get(name, 0), MINOR + 1))


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


def _convolve(minor: int, zero_point: list[str]) -> list[NodeProto]:
    """Codes or pixels `x` with integer weights `w` to float32(accumulator) * scale + bias."""
    if minor == 0:
        convolution = [_node("ConvInteger", ["x", "w", *zero_point], "a")]
    else:
        convolution = [
            _constant("O", ZERO_POINT, np.int32),
            _node("Cast", ["w"], "i", to=TensorProto.INT32),
            _node("Add", ["i", "O"], "o"),
            _node("Cast", ["o"], "k", to=TensorProto.UINT8),
            _constant("Z", ZERO_POINT, np.uint8),
            *([] if zero_point else [_constant("X", 0, np.uint8)]),
            _node("ConvInteger", ["x", "k", *(zero_point or ["X"]), "Z"], "a"),
        ]
    return [
        *convolution[:-1],
        _refer(convolution[-1], strides="strides", pads="pads"),
        _node("Cast", ["a"], "f", to=TensorProto.FLOAT),
        _node("Mul", ["f", "scale"], "m"),
        _node("Add", ["m", "bias"], "y"),
    ]


def _pixel_conv(name: str, minor: int) -> FunctionProto:
    return _make(name, ["x", "w", "z", "scale", "bias"], _convolve(minor, ["z"]), ["strides", "pads"])


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


def _unpack(plane: str, output: str, minor: int) -> list[NodeProto]:
    """Plane uint8 [O, Kb] to its bits as integers [O, C, kh, kw]."""
    p = plane
    return [
        _node("Unsqueeze", [p, "2"], p + "u"),
        _node("BitShift", [p + "u", "B"], p + "s", direction="RIGHT"),
        _node("BitwiseAnd", [p + "s", "I"], p + "b"),
        _node("Reshape", [p + "b", "R"], p + "r"),
        _node("Slice", [p + "r", "0", "K", "1"], p + "k"),
        _node("Reshape", [p + "k", "S"], p + "n"),
        _node("Transpose", [p + "n"], p + "t", perm=[0, 3, 1, 2]),
        _node("Cast", [p + "t"], output, to=TensorProto.INT32 if minor else TensorProto.INT8),
    ]


def _low_bit(name: str, minor: int) -> FunctionProto:
    """A convolution on codes, or the weight alone, by its name."""
    planes = ["p", "q"][: len(fmt.PLANE_NAMES[name])]
    attributes = ["weight_shape"] if name in fmt.LEVELS else ["levels", "weight_shape"]
    nodes = _unpack_prologue()
    for plane in planes:
        nodes += _unpack(plane, plane + "i", minor)
    nodes += _COMBINE[name.removesuffix("Conv").removesuffix("Weight")](np.int32 if minor else np.int8)
    if name in fmt.WEIGHT_OPERATORS:
        nodes += [_node("Cast", ["w"], "f", to=TensorProto.FLOAT), _node("Mul", ["f", "unit"], "y")]
        return _make(name, [*planes, "unit"], nodes, attributes)
    nodes += _convolve(minor, [])
    return _make(name, ["x", *planes, "scale", "bias"], nodes, [*attributes, "strides", "pads"])


def _binary(dtype: type[np.generic]) -> list[NodeProto]:
    return [
        _constant("c", BINARY.base, dtype),
        _constant("d", -BINARY.planes[0].coefficient, dtype),
        _node("Mul", ["pi", "d"], "e"),
        _node("Sub", ["c", "e"], "w"),
    ]


def _ternary(dtype: type[np.generic]) -> list[NodeProto]:
    sign = _constant("d", -TERNARY.planes[0].coefficient, dtype)
    return [sign, _node("Mul", ["pi", "d"], "e"), _node("Sub", ["qi", "e"], "w")]


def _quaternary(dtype: type[np.generic]) -> list[NodeProto]:
    first, second = QUATERNARY.planes
    return [
        _constant("c", QUATERNARY.base, dtype),
        _constant("d", first.coefficient, dtype),
        _constant("e", second.coefficient, dtype),
        _node("Mul", ["pi", "d"], "g"),
        _node("Mul", ["qi", "e"], "h"),
        _node("Add", ["g", "h"], "j"),
        _node("Add", ["c", "j"], "w"),
    ]


def _four_level(dtype: type[np.generic]) -> list[NodeProto]:
    """High - (high + low) p - (high - low) q, with low and high from the attribute `levels`."""
    return [
        _parameter("l", "levels"),
        _node("Cast", ["l"], "v", to=TensorProto.INT32),
        _constant("c", 0),
        _constant("d", 1),
        _node("Gather", ["v", "c"], "low"),
        _node("Gather", ["v", "d"], "high"),
        _node("Add", ["high", "low"], "n"),
        _node("Sub", ["high", "low"], "t"),
        _node("Mul", ["pi", "n"], "g"),
        _node("Mul", ["qi", "t"], "h"),
        _node("Add", ["g", "h"], "j"),
        _node("Sub", ["high", "j"], "w"),
    ]


_COMBINE = {"Binary": _binary, "Ternary": _ternary, "Quaternary": _quaternary, "FourLevel": _four_level}
"""Plane bits `pi`, `qi` to weights `w`."""


def _quantize(name: str, minor: int) -> FunctionProto:
    nodes = [
        _parameter("t", "top"),
        *([_constant("i", 0), _node("Gather", ["t", "i"], "s")] if minor else []),
        _node("Cast", ["s" if minor else "t"], "u", to=TensorProto.UINT8),
        _constant("z", 0, np.uint8),
        _node("QuantizeLinear", ["x", "step", "z"], "q"),
        _node("Clip", ["q", "z", "u"], "y") if minor else _node("Min", ["q", "u"], "y"),
    ]
    return _make(name, ["x", "step"], nodes, ["top"])


def _sign(name: str, minor: int) -> FunctionProto:
    nodes = [
        _constant("z", 0, np.float32),
        _node("GreaterOrEqual", ["x", "z"], "b"),
        _node("Cast", ["b"], "y", to=TensorProto.UINT8),
    ]
    return _make(name, ["x"], nodes)


def _channel_sign(name: str, minor: int) -> FunctionProto:
    nodes = [_node("GreaterOrEqual", ["x", "threshold"], "b"), _node("Cast", ["b"], "y", to=TensorProto.UINT8)]
    return _make(name, ["x", "threshold"], nodes)


def _pad_shortcut(name: str, minor: int) -> FunctionProto:
    nodes = [
        _parameter("s", "steps"),
        _parameter("p", "pads"),
        _constant("b", [0, 0]),
        _constant("e", [np.iinfo(np.int64).max] * 2),
        _constant("a", [2, 3]),
        _node("Slice", ["x", "b", "e", "a", "s"], "c"),
        # onnxruntime 1.17 does not infer the shape of a Constant that refers to an attribute.
        *([_node("Identity", ["p"], "q")] if minor else []),
        _node("Pad", ["c", "q" if minor else "p"], "y"),
    ]
    return _make(name, ["x"], nodes, ["steps", "pads"])


def _normalize(name: str, minor: int) -> FunctionProto:
    nodes = [
        _node("Cast", ["x"], "f", to=TensorProto.FLOAT),
        _node("Sub", ["f", "mean"], "s"),
        _node("Div", ["s", "std"], "y"),
    ]
    return _make(name, ["x", "mean", "std"], nodes)


def _fake_quantize(name: str, minor: int) -> FunctionProto:
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


def _int8_weight(name: str, minor: int) -> FunctionProto:
    return _make(name, ["w", "unit"], [_node("Cast", ["w"], "f", to=TensorProto.FLOAT), _node("Mul", ["f", "unit"], "y")])


def _bipolar(name: str, minor: int) -> FunctionProto:
    nodes = [
        _constant("z", 0, np.float32),
        _node("GreaterOrEqual", ["x", "z"], "b"),
        _node("Neg", ["scale"], "n"),
        _node("Where", ["b", "scale", "n"], "y"),
    ]
    return _make(name, ["x", "scale"], nodes)


_BODIES: dict[str, Callable[[str, int], FunctionProto]] = {
    fmt.PIXEL_CONV: _pixel_conv,
    fmt.BINARY_CONV: _low_bit,
    fmt.TERNARY_CONV: _low_bit,
    fmt.QUATERNARY_CONV: _low_bit,
    fmt.FOUR_LEVEL_CONV: _low_bit,
    fmt.QUANTIZE: _quantize,
    fmt.SIGN: _sign,
    fmt.CHANNEL_SIGN: _channel_sign,
    fmt.PAD_SHORTCUT: _pad_shortcut,
    fmt.NORMALIZE: _normalize,
    fmt.FAKE_QUANTIZE: _fake_quantize,
    fmt.BIPOLAR: _bipolar,
    fmt.BINARY_WEIGHT: _low_bit,
    fmt.TERNARY_WEIGHT: _low_bit,
    fmt.QUATERNARY_WEIGHT: _low_bit,
    fmt.FOUR_LEVEL_WEIGHT: _low_bit,
    fmt.INT8_WEIGHT: _int8_weight,
}


def describe(proto: FunctionProto) -> str:
    """A function as text: one line a node, attributes in braces, `@name` for an attribute of the function."""

    def value(a: AttributeProto) -> str:
        if a.ref_attr_name:
            return f"@{a.ref_attr_name}"
        if a.type == AttributeProto.TENSOR:
            array = numpy_helper.to_array(a.t)
            return f"{array.dtype}{list(array.shape) or ''} {array.tolist()}"
        plain = helper.get_attribute_value(a)
        return plain.decode() if isinstance(plain, bytes) else str(list(plain) if a.type == AttributeProto.INTS else plain)

    inputs = ", ".join([*proto.input, *(f"@{name}" for name in proto.attribute)])
    lines = [f"{proto.name}({inputs}) -> {', '.join(proto.output)}"]
    for node in proto.node:
        attributes = ", ".join(f"{a.name} = {value(a)}" for a in sorted(node.attribute, key=lambda a: a.name))
        call = f"{node.output[0]:2} = {node.op_type}({', '.join(node.input)})"
        lines.append(f"    {call}" + (f" {{{attributes}}}" if attributes else ""))
    return "\n".join(lines)


def describe_all() -> str:
    """The section of FORMAT.md that lists every function body of every minor version."""
    parts = [
        f"Opset {fmt.OPSET_VERSION} of the default domain; `to` is a TensorProto.DataType (1 float, 2 uint8, 3 int8, 6 int32)."
    ]
    for minor in range(MINOR, -1, -1):
        known = {name for name in _BODIES if _SINCE.get(name, 0) <= minor}
        same = {name for name in known if minor < MINOR and signature(function(name, minor)) == signature(function(name))}
        names = [name for name in _BODIES if name in known - same]
        if not names:
            continue
        note = "" if minor == MINOR else " (the operators whose body differs)"
        body = "\n\n".join(describe(function(name, minor)) for name in names)
        parts.append(f"### 1.{minor}{note}\n\n```\n{body}\n```")
    return "\n\n".join(parts)


_SINCE = {
    fmt.CHANNEL_SIGN: 2,
    **dict.fromkeys((fmt.NORMALIZE, fmt.FAKE_QUANTIZE, fmt.BIPOLAR, *fmt.LOW_BIT_WEIGHT.values(), fmt.INT8_WEIGHT), 1),
    **dict.fromkeys((fmt.FOUR_LEVEL_CONV, fmt.FOUR_LEVEL_WEIGHT), 4),
}
"""Minor version that brought an operator, where it is not 0."""
