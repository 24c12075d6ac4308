"""The first step: uint8 pixels [C, H, W] to interleaved [H, W, C] inside a halo that holds the zero point."""

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.intrinsics import bytes_at, interleave, share
from bitplane.runtime.kernels.options import INNER

PIXELS = 16
"""Pixels that `interleave` handles at once; the last ones of a row overlap those before."""


@numba.njit(**INNER)
def run_image(steps, i, arena, image, part, parts) -> None:  # noqa: ANN001
    """Interleave the channels of the image at address `image`."""
    height, width, channels = steps[i, f.HEIGHT], steps[i, f.WIDTH], steps[i, f.CHANNELS]
    area = height * width
    source = bytes_at(image, channels * area)
    begin, end = share(height, part, parts)
    for y in range(begin, end):
        out = bytes_at(arena + steps[i, f.CODES] + y * steps[i, f.CODES_ROW], width * channels)
        if channels == 3 and width >= PIXELS:
            x = 0
            while x < width:
                at = min(x, width - PIXELS)
                interleave(arena + steps[i, f.CODES] + y * steps[i, f.CODES_ROW] + 3 * at, image + y * width + at, area)
                x += PIXELS
        else:
            for c in range(channels):
                for x in range(width):
                    out[channels * x + c] = source[c * area + y * width + x]
