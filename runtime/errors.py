"""The errors of `bitplane.runtime`: one tree, each message one line that says what is wrong, where, and what to do."""

from bitplane.errors import BitplaneError


class ModelError(BitplaneError):
    """The model file is missing, damaged, or not a packed file this version understands."""


class InputError(BitplaneError):
    """The value given to `run` does not fit the model's input."""


class MachineCodeError(BitplaneError):
    """The kernels can neither be loaded nor compiled."""


class ResourceError(BitplaneError):
    """There is not enough memory, or there are no more threads."""
