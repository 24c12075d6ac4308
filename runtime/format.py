"""Names and bit conventions of the packed file, format version 1.2 (`export/FORMAT.md`).

This is their only home: `export/` writes files from these constants and `runtime/` reads files by them.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = "1.2"
"""Major and minor version written; files of any 1.x are read."""
DOMAIN = "bitplane"
DOMAIN_VERSION = 1
OPSET_VERSION = 18
IR_VERSION = 8

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"

PIXEL_CONV = "PixelConv"
BINARY_CONV = "BinaryConv"
TERNARY_CONV = "TernaryConv"
QUATERNARY_CONV = "QuaternaryConv"
QUANTIZE = "Quantize"
SIGN = "Sign"
CHANNEL_SIGN = "ChannelSign"
PAD_SHORTCUT = "PadShortcut"
NORMALIZE = "Normalize"
FAKE_QUANTIZE = "FakeQuantize"
BIPOLAR = "Bipolar"
BINARY_WEIGHT = "BinaryWeight"
TERNARY_WEIGHT = "TernaryWeight"
QUATERNARY_WEIGHT = "QuaternaryWeight"
INT8_WEIGHT = "Int8Weight"

CODERS = (QUANTIZE, SIGN, CHANNEL_SIGN)
"""Operators whose result is codes."""

LEVELS = {BINARY_CONV: "binary", TERNARY_CONV: "ternary", QUATERNARY_CONV: "quaternary"}
"""Convolution on codes: name of its level set."""

WEIGHT_OPERATORS = (BINARY_WEIGHT, TERNARY_WEIGHT, QUATERNARY_WEIGHT)
"""Operators that unpack planes into a float weight."""

PLANES = {
    BINARY_CONV: ("sign",),
    TERNARY_CONV: ("sign", "mask"),
    QUATERNARY_CONV: ("sign1", "sign2"),
    BINARY_WEIGHT: ("sign",),
    TERNARY_WEIGHT: ("sign", "mask"),
    QUATERNARY_WEIGHT: ("sign1", "sign2"),
}
"""Plane inputs of each low-bit operator, in input order; of a convolution they follow the codes."""

ACTIVATION_BITS = (1, 2, 4, 8)
CODE_TOPS = tuple(2**bits - 1 for bits in ACTIVATION_BITS)
"""Largest activation codes that have bit-planes."""
PIXEL_WEIGHT_LIMIT = 64
"""Largest magnitude of a `PixelConv` weight: 2 * 255 * 64 fits 16 bits."""
QUATERNARY_TENTHS = (10, -13, -7)
"""A quaternary weight is 10 - 13 sign1 - 7 sign2, in tenths."""

META_FORMAT_VERSION = "bitplane.format_version"
META_MODEL = "bitplane.model"
META_METHOD = "bitplane.method"
META_LEVEL_SET = "bitplane.level_set"
META_ACTIVATION_BITS = "bitplane.activation_bits"
META_DATASET = "bitplane.dataset"
META_CLASSES = "bitplane.classes"
META_INPUT = "bitplane.input"
META_ACCURACY = "bitplane.accuracy"
META_PLANES_SHA256 = "bitplane.planes_sha256"
META_WEIGHTS_SHA256 = "bitplane.weights_sha256"
META_CHECKPOINT_SHA256 = "bitplane.checkpoint_sha256"
META_VERIFICATION = "bitplane.verification"

METADATA_KEYS = (
    META_FORMAT_VERSION,
    META_MODEL,
    META_METHOD,
    META_LEVEL_SET,
    META_ACTIVATION_BITS,
    META_DATASET,
    META_CLASSES,
    META_INPUT,
    META_ACCURACY,
    META_PLANES_SHA256,
    META_WEIGHTS_SHA256,
    META_CHECKPOINT_SHA256,
    META_VERIFICATION,
)


def plane_bytes(weights: int) -> int:
    """Bytes of one row of a plane that holds `weights` bits: ceil(weights / 8)."""
    return -(-weights // 8)


def pack_plane(bits: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Pack 0/1 weights [O, kh, kw, C] into a plane uint8 [O, ceil(kh kw C / 8)], little-endian bit order, padding zero."""
    flat = np.ascontiguousarray(bits).reshape(bits.shape[0], -1).astype(bool)
    return np.packbits(flat, axis=1, bitorder="little")


def unpack_plane(plane: NDArray[np.uint8], weight_shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Unpack a plane uint8 [O, ceil(kh kw C / 8)] into 0/1 integers uint8 [O, kh, kw, C] = `weight_shape`."""
    bits = np.unpackbits(plane, axis=1, count=prod(weight_shape[1:]), bitorder="little")
    return bits.reshape(weight_shape)


def unpack_weight(
    operator: str, planes: Sequence[NDArray[np.uint8]], weight_shape: tuple[int, int, int, int]
) -> NDArray[np.int8]:
    """Integer weights int8 [O, kh, kw, C] = `weight_shape` of a low-bit operator: -1, 0, 1, or tenths of a quaternary level."""
    bits = [unpack_plane(plane, weight_shape).astype(np.int8) for plane in planes]
    if operator in (QUATERNARY_CONV, QUATERNARY_WEIGHT):
        one, first, second = QUATERNARY_TENTHS
        return (one + first * bits[0] + second * bits[1]).astype(np.int8)
    return ((bits[1] if operator in (TERNARY_CONV, TERNARY_WEIGHT) else 1) - 2 * bits[0]).astype(np.int8)
