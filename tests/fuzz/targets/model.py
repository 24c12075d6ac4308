"""Bytes of packed files: a model, or one line of a ModelError; `tests/runtime/model/fuzz` also runs mutants."""

from scratch import one_line

from bitplane.runtime.errors import ModelError
from bitplane.runtime.model.parse import parse


def check(data: bytes) -> None:
    try:
        assert parse(data).nodes
    except ModelError as error:
        one_line(error)
