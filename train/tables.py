"""Open tables: what an option of a run may name, with room for a user's own rows.

A table is a dictionary that refuses to change a row, and tells the configuration which names its option takes beside those
that the command line offers. A row comes from `register` in the process, or from an installed package whose metadata have an
entry point of the table's group: its name is the row's, and what it points to is the row. It is loaded when the name is first
looked up, and never in the place of a row that the table has. Needs no torch.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from bitplane.train.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Name = TypeVar("Name", bound=int | str)
Row = TypeVar("Row")

GROUPS = {"weights": "bitplane.level_sets", "method": "bitplane.methods", "activations": "bitplane.activations"}
"""Option to the group of entry points whose names it takes too."""

NAME = re.compile(r"[\w.+-]+")
RESERVED = ("float", "none", "default", "int8", "keep", "mixed")
"""What options and files say in the place of a row's name."""

_TABLES: dict[str, "Table[Any, Any]"] = {}


class Table(dict[Name, Row]):
    """Rows by name.

    Args:
        option: option of a run whose value is a name of this table; one table an option.
        rows: the built-in ones.
        kind: class of a row, for those that packages bring.
    """

    def __init__(self, option: str, rows: Mapping[Name, Row], kind: Any) -> None:
        super().__init__(rows)
        self.option = option
        self.kind = kind
        _TABLES[option] = self

    def __missing__(self, name: Name) -> Row:
        """The row that a package brings; a KeyError if none does.

        Raises:
            ConfigError: the package cannot be loaded, or what it brings is no row.
        """
        found = _plugins(self.option).get(name)
        if found is None:
            raise KeyError(name)
        row = self[name] = self._load(name, found)
        return row

    def _load(self, name: Name, found: "tuple[EntryPoint, ...]") -> Row:
        packages = " and ".join(f"`{_package(e)}`" for e in found)
        entry, *others = found
        if others:
            raise ConfigError(f"`{self.option}` {name} comes from {packages}; uninstall all but one")
        where = f"`{self.option}` {name} of package {packages} (entry point {entry.name} = {entry.value})"
        try:
            row = entry.load()
        except Exception as e:  # whatever a stranger's module raises
            problem = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            raise ConfigError(f"{where} cannot be loaded ({problem}); repair or uninstall it") from e
        if not isinstance(row, self.kind):
            raise ConfigError(f"{where} is a {type(row).__name__}, not a {self.kind.__name__}; repair or uninstall it")
        if getattr(row, "name", name) != name:
            raise ConfigError(f"{where} calls itself {row.name}; both names must be the same")
        return row

    def register(self, name: Name, row: Row) -> None:
        """Add a row.

        Args:
            name: a new one: an integer, or letters, digits and `_.+-`, as it also becomes part of folder names.
            row: what it stands for.

        Raises:
            ConfigError: the name cannot be used or is taken.
        """
        if isinstance(name, str) and not NAME.fullmatch(name):
            raise ConfigError(f"`{self.option}` cannot be called {name!r}: take letters, digits and `_.+-`")
        if name in self or name in RESERVED:
            raise ConfigError(f"`{self.option}` {name} is taken; choose another name")
        self[name] = row


def names_of(option: str) -> tuple[int | str, ...]:
    """All names of the table of an option, of its rows as far as somebody has loaded it, and of those that packages bring."""
    return tuple(dict.fromkeys((*_TABLES.get(option, ()), *_plugins(option))))


def has_row(option: str, name: int | str) -> bool:
    """Whether `names_of` an option has this name, of this type; packages are looked at only if nothing else has it."""

    def among(names: Iterable[int | str]) -> bool:
        return any(name == n and type(name) is type(n) for n in names)

    return among(_TABLES.get(option, ())) or among(_plugins(option))


@cache
def _plugins(option: str) -> "Mapping[int | str, tuple[EntryPoint, ...]]":
    """Entry points of an option's group by the name of the row, an integer where it is all digits; none is loaded."""
    from importlib.metadata import entry_points  # 15 ms

    found: dict[int | str, dict[tuple[str, str], EntryPoint]] = {}
    for entry in entry_points(group=GROUPS[option]) if option in GROUPS else ():
        if NAME.fullmatch(entry.name) and entry.name not in RESERVED:
            name = int(entry.name) if re.fullmatch("[0-9]{1,4}", entry.name) else entry.name
            found.setdefault(name, {})[_package(entry), entry.value] = entry
    return {name: tuple(entries.values()) for name, entries in found.items()}


def _package(entry: "EntryPoint") -> str:
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]
