"""The error of `bitplane.export`."""

from bitplane.errors import BitplaneError


class ExportError(BitplaneError):
    """A network cannot be exported; one line that says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
