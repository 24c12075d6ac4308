"""The errors of `bitplane.benchmarks`."""

from bitplane.errors import BitplaneError


class StudyError(BitplaneError):
    """A description, a results file or a request that cannot be used; one line that names the file and the field."""


class PeerError(BitplaneError):
    """An engine that cannot start or died; the message becomes its row's."""
