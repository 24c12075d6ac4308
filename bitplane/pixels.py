"""One function turns an image file into pixels: in training, calibration, `eval` and `predict`.

    first frame -> EXIF orientation -> 8 bits a channel -> alpha over white -> grey or RGB -> resized -> uint8 [C, H, W]

Resizing is Pillow's, whose filters cover all pixels that a result stands for (what torchvision calls antialias). A network is
run on the pixels it was trained on: `bitplane.input` in the file's metadata names the size, filter and fit (`FORMAT.md`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitplane.errors import BitplaneError
from bitplane.format.metadata import DEFAULT_FIT, DEFAULT_RESIZE, Fit, InputInfo, Resize
from bitplane.format.text import plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Names of image files in a folder, in small letters."""

BACKGROUND = 255
"""What lies behind transparent pixels: white, as on a page."""

MAX_IMAGE = 178_956_970
"""Pixels of a file's image: where Pillow speaks of a decompression bomb."""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class PixelError(BitplaneError):
    """A file is no image that can be read; one line that names it."""


@dataclass(frozen=True)
class PixelForm:
    """What the pixels of a file become.

    Attributes:
        size: (height, width) to resize to; None keeps the image's own.
        channels: 1 (grey) or 3 (RGB).
        resize: filter.
        fit: "stretch": the whole image, whatever its sides; "crop": its middle, in the right proportion.
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    resize: Resize = DEFAULT_RESIZE
    fit: Fit = DEFAULT_FIT

    @classmethod
    def of(cls, given: InputInfo) -> "PixelForm":
        """The pixels that a network takes, by its metadata."""
        return cls(given.size, given.channels, given.resize, given.fit)


def read_pixels(path: Path, form: PixelForm = PixelForm()) -> "npt.NDArray[np.uint8]":
    """Read an image file.

    Args:
        path: a file of any format that Pillow reads; of several frames the first is taken.
        form: what its pixels become.

    Returns:
        uint8 [channels, height, width].

    Raises:
        PixelError: it is no regular file, no image, too large or damaged, or its pixels have no range that is known.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if form.channels not in (1, 3):
        raise PixelError(f"{_shown(path)}: images have 1 or 3 channels, not {form.channels}")
    try:
        if path.exists() and not path.is_file():
            raise PixelError(f"{_shown(path)}: not a regular file; give a PNG, JPEG or similar file")
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_IMAGE:
                raise PixelError(f"{_shown(path)}: {opened.width}x{opened.height} pixels are too many; give a smaller image")
            image = _to_eight_bits(ImageOps.exif_transpose(opened), path)
            image = _over_background(image).convert("L" if form.channels == 1 else "RGB")
        if form.size is not None and (image.height, image.width) != form.size:
            image = _resized(image, form)
        pixels = np.asarray(image, np.uint8)
    except (BitplaneError, MemoryError):
        raise
    except Exception as e:  # damaged files raise whatever their decoder meets
        raise PixelError(
            f"{_shown(path)}: not a readable image ({plain(str(e), 200)}); give a PNG, JPEG or similar file"
        ) from e
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], form.channels).transpose(2, 0, 1))


def _to_eight_bits(image: "Image.Image", path: Path) -> "Image.Image":
    """16-bit grey scaled to 0 to 255; other modes as they are."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise PixelError(f"{_shown(path)}: its pixels are floats of no known range; convert it to 8 or 16 bits")
    if image.mode not in _DEEP:
        return image
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise PixelError(f"{_shown(path)}: its pixels have more than 16 bits; convert it to 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _over_background(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    colors = image.convert("RGBA")
    behind = Image.new("RGBA", colors.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    return Image.alpha_composite(behind, colors)


def _resized(image: "Image.Image", form: PixelForm) -> "Image.Image":
    from PIL import Image, ImageOps

    assert form.size is not None
    height, width = form.size
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[form.resize]
    if form.fit == "crop":
        return ImageOps.fit(image, (width, height), method)
    return image.resize((width, height), method)


def _shown(path: Path) -> str:
    return plain(str(path))
