"""How much memory a protobuf message would take, found from its bytes before anything is built from them.

A file of 10 MB can hold five million empty entries, each of which becomes an object of a hundred bytes. The scan follows the
wire format (https://protobuf.dev/programming-guides/encoding) by the descriptors of ONNX's messages, without recursion, and
stops as soon as the memory passes its bound.
"""

import math
from typing import Any

import onnx

GROWTH = 3
"""Memory of a message as a multiple of its bytes; with the bytes themselves, loading takes four times the file at the most."""
ALLOWANCE = 64 << 20
"""Bytes beside that: what some hundred thousand nodes, attributes and names take."""
WORST_GROWTH = 128
"""Measured: a message of 10 MB of empty entries grows 66 to 116 times."""
MESSAGE, TEXT, NUMBER = 128, 64, 32
"""Bytes of a message, a string and a number beside their content, at the most: arrays double as they grow, and what they leave
behind is not used again. Measured by tests/runtime/model/bombs.py."""
LARGE = {"onnx.AttributeProto": 256, "onnx.FunctionProto": 224, "onnx.NodeProto": 224, "onnx.TensorProto": 240}
"""The messages that take more."""
DOUBLED = 4
"""How many times its numbers' size an array takes, at the most, if their count is not known before."""

_SCALAR, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def scan(data: bytes, root: Any = onnx.ModelProto.DESCRIPTOR) -> None:
    """Check that a message grows to no more than its bound.

    Args:
        data: the serialized message.
        root: descriptor of its type.

    Raises:
        ValueError: the bytes are no message.
        MemoryError: it would grow beyond its bound.
    """
    bound = GROWTH * len(data) + ALLOWANCE
    if WORST_GROWTH * len(data) > bound:
        grown(data, root, bound)


def grown(data: bytes, root: Any = onnx.ModelProto.DESCRIPTOR, bound: float = math.inf) -> int:
    """Bytes that a message would take in memory, at the most.

    Args:
        data: the serialized message.
        root: descriptor of its type.
        bound: bytes from which on it is not looked at any further.

    Raises:
        ValueError: the bytes are no message.
        MemoryError: it would take more than `bound`.
    """
    memory, stack = 0, [(0, len(data), root)]
    while stack:
        at, end, kind = stack.pop()
        fields = kind.fields_by_number
        while at < end:
            tag, at = _varint(data, at, end)
            field, wire = fields.get(tag >> 3), tag & 7
            start = at
            if wire == _SCALAR:
                _, at = _varint(data, at, end)
                memory += NUMBER
            elif wire == _BYTES:
                size, at = _varint(data, at, end)
                start, at = at, at + size
                if field is not None and field.message_type is not None:
                    stack.append((start, at, field.message_type))
                    memory += LARGE.get(field.message_type.full_name, MESSAGE)
                elif field is not None and field.cpp_type != field.CPPTYPE_STRING:
                    memory += _packed(data, start, at, field)
                else:
                    memory += TEXT + size
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
                memory += NUMBER
            else:
                raise ValueError(f"wire type {wire}")
            if at > end:
                raise ValueError("a field is longer than its message")
            if memory > bound:
                raise MemoryError
    return memory


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number that does not end")


def _packed(data: bytes, start: int, end: int, field: Any) -> int:
    """Memory of numbers that lie one after the other."""
    fixed = field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE)
    if fixed:
        return end - start
    size = 4 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32, field.CPPTYPE_ENUM) else 8
    return DOUBLED * size * (end - start)  # a byte each, at the most
