"""Open tables: what an option of a run may name, with room for a user's own rows.

A table is a dictionary that refuses to change a row, and tells the configuration which names its option takes beside those
that the command line offers. Needs no torch.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from bitplane.train.errors import ConfigError

Name = TypeVar("Name", bound=int | str)
Row = TypeVar("Row")

_TABLES: dict[str, "Table[Any, Any]"] = {}


class Table(dict[Name, Row]):
    """Rows by name.

    Args:
        option: option of a run whose value is a name of this table; one table an option.
        rows: the built-in ones.
    """

    def __init__(self, option: str, rows: Mapping[Name, Row]) -> None:
        super().__init__(rows)
        self.option = option
        _TABLES[option] = self

    def register(self, name: Name, row: Row) -> None:
        """Add a row.

        Args:
            name: a new one: an integer, or letters, digits and `_.+-`, as it also becomes part of folder names.
            row: what it stands for.

        Raises:
            ConfigError: the name cannot be used or is taken.
        """
        if isinstance(name, str) and not re.fullmatch(r"[\w.+-]+", name):
            raise ConfigError(f"`{self.option}` cannot be called {name!r}: take letters, digits and `_.+-`")
        if name in self or name in ("float", "none", "default"):
            raise ConfigError(f"`{self.option}` {name} is taken; choose another name")
        self[name] = row


def names_of(option: str) -> tuple[int | str, ...]:
    """All names of the table of an option; none where it has no table, or nobody has loaded it."""
    return tuple(_TABLES.get(option, ()))
