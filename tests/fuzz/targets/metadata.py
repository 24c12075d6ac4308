"""What a packed file says of itself: checked values within their bounds, or one line of a MetadataError."""

import math

from scratch import one_line

from bitplane.format.errors import MetadataError
from bitplane.format.metadata import MAX_CLASSES, MAX_PIXELS, check_fit, read_metadata


def check(data: bytes) -> None:
    """Lines `key=value`; the keys lack `bitplane.`."""
    pairs = (line.partition("=") for line in data.decode(errors="surrogateescape").split("\n"))
    properties = {f"bitplane.{key}": value for key, _, value in pairs}
    try:
        found = read_metadata(properties, "label")
        check_fit(found, "label", (3, 32, 32), 10)
    except MetadataError as error:
        one_line(error)
        return
    assert len(found.classes) in (0, 10)
    assert len(found.classes) <= MAX_CLASSES
    assert found.accuracy is None or 0 <= found.accuracy <= 1
    assert found.activation_bits is None or 1 <= found.activation_bits <= 32
    if (given := found.input) is not None:
        assert math.prod(given.size) * given.channels <= MAX_PIXELS
        assert all(math.isfinite(v) for v in (*given.mean, *given.std))
        assert all(v > 0 for v in given.std)
