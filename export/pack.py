"""Planes of the packed file: one bit a weight, in (kh, kw, in-channel) order, little-endian bits (`FORMAT.md`, Values)."""

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime import format as fmt
from bitplane.train.levels import LevelSet, to_planes

LOW_BIT_CONV = {"binary": fmt.BINARY_CONV, "ternary": fmt.TERNARY_CONV, "quaternary": fmt.QUATERNARY_CONV}
"""Operator of each level set on codes."""
LOW_BIT_WEIGHT = {"binary": fmt.BINARY_WEIGHT, "ternary": fmt.TERNARY_WEIGHT, "quaternary": fmt.QUATERNARY_WEIGHT}
"""Operator of each level set that makes a float weight."""


def pack_weight(integers: NDArray[np.int8], levels: LevelSet) -> dict[str, NDArray[np.uint8]]:
    """Pack a convolution's integer levels.

    Args:
        integers: int8 [O, C, kh, kw], every element one of `levels.integers`.
        levels: the level set.

    Returns:
        Planes uint8 [O, ceil(kh kw C / 8)] by input name, in input order: "sign"; "sign", "mask"; or "sign1", "sign2".

    Raises:
        ValueError: an element is not a level.
    """
    names = fmt.PLANES[LOW_BIT_CONV[levels.name]]
    planes = to_planes(integers.transpose(0, 2, 3, 1), levels)
    return {name: fmt.pack_plane(plane) for name, plane in zip(names, planes, strict=True)}
