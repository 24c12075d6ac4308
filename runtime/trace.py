"""Values out of an arena, in ONNX's layout."""

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.arena import FOURS, CodesLayout, FeaturesLayout


def read_codes(memory: NDArray[np.uint8], layout: CodesLayout, at: int, channels: int) -> NDArray[np.uint8]:
    """Codes uint8 [C, H, W] of a buffer at byte `at` of an arena."""
    if layout.code_bits > 1:
        high, wide = layout.height + 2 * layout.halo, layout.width + 2 * layout.halo
        codes = memory[at : at + high * layout.row].reshape(high, wide, layout.pixel)
        inner = codes[layout.halo : layout.halo + layout.height, layout.halo : layout.halo + layout.width]
        if layout.code_bits == FOURS:
            fields = inner[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
            inner = fields.astype(np.uint8).reshape(*inner.shape[:2], -1)
        return inner[:, :, :channels].transpose(2, 0, 1).copy()
    out = np.zeros((layout.channels, layout.height, layout.width), np.uint8)
    high, wide, halo = layout.height + 2 * layout.halo, layout.width + 2 * layout.halo, layout.halo
    for plane in range(layout.planes):
        start = at + plane * layout.plane
        packed = memory[start : start + high * layout.row].reshape(high, wide, layout.pixel)
        bits = np.unpackbits(packed, axis=-1, count=layout.channels, bitorder="little")
        out |= bits[halo : halo + layout.height, halo : halo + layout.width].transpose(2, 0, 1) << plane
    return out


def read_features(memory: NDArray[np.uint8], layout: FeaturesLayout, at: int, channels: int) -> NDArray[np.float32]:
    """Features float32 [C, H, W] of a buffer at byte `at` of an arena."""
    values = memory[at : at + layout.size].view(np.float32).reshape(layout.height, layout.width, layout.channels)
    return values[:, :, :channels].transpose(2, 0, 1).copy()
