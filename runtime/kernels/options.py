"""The one place for Numba's options, and the fingerprint that ties the on-disk cache to the kernels' sources.

No fastmath: float operations keep their order and rounding, so results are the same bits on every machine. Numba's cache looks
only at the file of the outermost function; the fingerprint, a constant inside that function, makes an edit of any kernel count.
"""

import zlib
from pathlib import Path
from typing import Any

CACHED: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": False, "error_model": "numpy"}
"""Entry points, called from Python: compiled at import or loaded from the cache."""

INNER: dict[str, Any] = {**CACHED, "cache": False}
"""Functions that only compiled code calls: they live inside the cached object of their caller."""


def source_fingerprint() -> int:
    """CRC-32 of all kernel sources, in order of their names."""
    crc = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        crc = zlib.crc32(path.read_bytes(), crc)
    return crc


FINGERPRINT = source_fingerprint()
