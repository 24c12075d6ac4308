"""The errors of `bitplane.runtime`: one tree, each message one line that says what is wrong, where, and what to do."""


class BitplaneError(Exception):
    """Base of every error that bitplane raises on purpose."""


class ModelError(BitplaneError):
    """The model file is missing, damaged, or not a packed file this version understands."""


class InputError(BitplaneError):
    """The value given to `run` does not fit the model's input."""
