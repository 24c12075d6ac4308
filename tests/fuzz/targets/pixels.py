"""Image files: pixels of the shape that was asked for, or one line of a PixelError."""

import numpy as np
from scratch import one_line, written

from bitplane.pixels import PixelError, PixelForm, read_pixels

FORMS = [
    PixelForm((8, 8)),
    PixelForm((8, 8), 1),
    PixelForm((5, 9), 3, "bicubic", "crop"),
    PixelForm(None, 1),
]
"""What pixels become; the length of the file chooses."""


def check(data: bytes) -> None:
    form = FORMS[len(data) % len(FORMS)]
    path = written(data, "image")
    try:
        pixels = read_pixels(path, form)
    except PixelError as error:
        one_line(error, path)
        return
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.shape[0] == form.channels
    assert form.size is None or pixels.shape[1:] == form.size
