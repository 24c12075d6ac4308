"""Errors of `bitplane.train`: what is wrong, where, and what to do about it."""

from bitplane.errors import BitplaneError


class DataError(BitplaneError):
    """A data set is missing, empty or unreadable."""


class CheckpointError(BitplaneError):
    """A run or checkpoint is missing, damaged, or belongs to another model."""


class RunTakenError(BitplaneError):
    """Another process is training into the folder of a run."""


class ConfigError(BitplaneError):
    """A training option has a value that cannot be used."""


class TrainingError(BitplaneError):
    """A run cannot go on: its loss is no longer finite, or its optimizer was called in a way that it cannot work."""
