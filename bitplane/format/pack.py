"""Planes of the packed file: one bit a weight, in (kh, kw, in-channel) order, little-endian bits (`FORMAT.md`, Values)."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from bitplane.format.levels import LevelSet


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


def pack_weight(integers: NDArray[np.int8], levels: LevelSet) -> dict[str, NDArray[np.uint8]]:
    """Pack a convolution's integer weights.

    Args:
        integers: int8 [O, C, kh, kw], every element one of `levels.integers`.
        levels: the level set.

    Returns:
        Planes uint8 [O, ceil(kh kw C / 8)] by input name, in input order: "sign"; "sign", "mask"; or "sign1", "sign2".

    Raises:
        ValueError: an element is not a level.
    """
    planes = levels.to_planes(integers.transpose(0, 2, 3, 1))
    return {name: pack_plane(plane) for name, plane in zip(levels.plane_names, planes, strict=True)}


def unpack_weight(
    levels: LevelSet, planes: Sequence[NDArray[np.uint8]], weight_shape: tuple[int, int, int, int]
) -> NDArray[np.int8]:
    """Integer weights int8 [O, kh, kw, C] = `weight_shape` of packed planes: those of `levels.integers`."""
    return levels.from_planes([unpack_plane(plane, weight_shape) for plane in planes])
