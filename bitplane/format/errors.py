"""The errors of `bitplane.format`."""

from bitplane.errors import BitplaneError


class MetadataError(BitplaneError):
    """What a file says of itself cannot be used; one line that names the file and the key."""


class FileError(BitplaneError):
    """A file cannot be read; the message says why, without the path."""
