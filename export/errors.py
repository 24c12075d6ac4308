"""The error of `bitplane.export`."""

from bitplane.errors import BitplaneError


class ExportError(BitplaneError):
    """A network cannot be exported; one line that says what is wrong, where, and what to do."""
