"""The table that the walker reads: one int64 row an instruction.

A field of an instruction goes into the column of its name in `kernels.fields`, those of its parts likewise, so a column means
the same in every instruction.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.instructions import Instruction
from bitplane.runtime.kernels import fields as f

_BY_OP: dict[int, type[Any]] = {kind.OP: kind for kind in get_args(Instruction)}


def encode(instructions: Sequence[Instruction]) -> NDArray[np.int64]:
    """The table [instructions, FIELDS] that the walker reads."""
    table = np.zeros((len(instructions), f.FIELDS), np.int64)
    for row, instruction in zip(table, instructions, strict=True):
        row[f.OP] = instruction.OP
        for name, value in _flat(instruction):
            row[_column(name)] = value
    return table


def decode(table: NDArray[np.int64]) -> list[Instruction]:
    """The instructions of a table.

    Raises:
        KeyError: a row has an unknown operator.
    """
    return [_build(_BY_OP[row[f.OP]], lambda name, row=row: row[_column(name)]) for row in table.tolist()]


def _column(name: str) -> int:
    return int(getattr(f, name.upper()))


def _flat(part: Any) -> Iterator[tuple[str, int]]:
    """Name and value of every number of an instruction, those of its parts in their place."""
    for name, value in zip(part._fields, part, strict=True):
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield name, value


def _build(kind: type[Any], value: Callable[[str], int]) -> Any:
    parts = {name: part for name, part in get_type_hints(kind).items() if name in kind._fields}
    return kind(**{name: value(name) if part is int else _build(part, value) for name, part in parts.items()})
