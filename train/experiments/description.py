"""A description of experiments as read from its file; `bitplane.train.experiments` shows the form."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_origin, get_type_hints

from bitplane.train.errors import ConfigError

VARIANT = "variant"
"""An axis that is no option of a run: overrides give its names a meaning."""


@dataclass(frozen=True)
class Override:
    """What differs for the runs of a group whose axes have certain values.

    Attributes:
        when: axis to value.
        options: options of a run, in place of the group's.
        init: False to start at random although the group names a start.
        teacher: group whose runs are the teachers, in place of the group's; "" for none.
    """

    when: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    init: bool = True
    teacher: str | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ along axes.

    Attributes:
        name: of the group.
        axes: option (or `variant`) to its values, the first varies slowest.
        columns: axis that the table of results shows as columns.
        options: options of all runs of the group.
        init: group whose finished runs these start from; "" for a random start.
        teacher: group whose finished runs are the teachers of these; "" for none.
        override: exceptions, applied in their order.
    """

    name: str
    axes: Mapping[str, Any]
    columns: str
    options: Mapping[str, Any] = field(default_factory=dict)
    init: str = ""
    teacher: str = ""
    override: Sequence[Override] = ()


@dataclass(frozen=True)
class Reference:
    """A published figure.

    Attributes:
        group: name of the group it belongs beside.
        when: axis to value.
        top1: accuracy in percent, as it was published.
    """

    group: str
    when: Mapping[str, Any]
    top1: float


@dataclass(frozen=True)
class Experiment:
    """A description as read.

    Attributes:
        path: its file.
        title: of the page of results.
        about: first paragraph of that page.
        groups: at least one.
        common: options of all runs.
        references: published figures.
    """

    path: Path
    title: str
    about: str
    groups: Sequence[Group]
    common: Mapping[str, Any]
    references: Sequence[Reference]


@dataclass(frozen=True)
class _Document:
    # The top level of the file: names of fields are those of its tables.
    title: str
    group: Sequence[Any]
    about: str = ""
    common: Mapping[str, Any] = field(default_factory=dict)
    reference: Sequence[Any] = ()


def read_experiment(path: Path) -> Experiment:
    """Read a description.

    Args:
        path: a TOML file.

    Raises:
        ConfigError: the file is missing or no TOML, a table has an unknown, missing or mistyped field, or names what does not
            exist; the message names file, table, field and the fields that there are.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: not a readable experiment description ({e})") from e
    try:
        document = _table(_Document, values, "description")
        groups = [_group(values, i) for i, values in enumerate(document.group, 1)]
        references = [_table(Reference, values, f"reference {i}") for i, values in enumerate(document.reference, 1)]
        _check_groups(groups)
        for i, reference in enumerate(references, 1):
            group = next((g for g in groups if g.name == reference.group), None)
            if group is None:
                raise ConfigError(f"reference {i}: there is no group '{reference.group}'")
            _check_when(reference.when, group, f"reference {i}")
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
    return Experiment(path, document.title, document.about, groups, document.common, references)


def matches(when: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    """Whether a run with these values on its axes has the ones that `when` asks for."""
    return all(axes.get(k) == v for k, v in when.items())


def _group(values: Any, number: int) -> Group:
    named = isinstance(values, dict) and isinstance(values.get("name"), str)
    where = f"group '{values['name']}'" if named else f"group {number}"
    group = _table(Group, values, where)
    for axis, choices in group.axes.items():
        if not (isinstance(choices, list) and choices):
            raise ConfigError(f"{where}: axis `{axis}` (={choices!r}) must be a list of values")
    override = [_table(Override, o, f"{where}, override {i}") for i, o in enumerate(group.override, 1)]
    return replace(group, override=override)


def _check_groups(groups: Sequence[Group]) -> None:
    if not groups:
        raise ConfigError("description: needs at least one group")
    names = [g.name for g in groups]
    for i, g in enumerate(groups):
        where, before = f"group '{g.name}'", names[:i]
        if g.name in before:
            raise ConfigError(f"{where} is there twice")
        if g.init and g.init not in before:
            raise ConfigError(f"{where} starts from '{g.init}', which is no group before it")
        for teacher in (g.teacher, *(o.teacher for o in g.override)):
            if teacher and teacher not in before:
                raise ConfigError(f"{where} learns from '{teacher}', which is no group before it")
        if g.columns not in g.axes:
            raise ConfigError(f"{where} has no axis '{g.columns}' for its columns; the axes are {', '.join(g.axes)}")
        for j, o in enumerate(g.override, 1):
            _check_when(o.when, g, f"{where}, override {j}")


def _check_when(when: Mapping[str, Any], group: Group, where: str) -> None:
    for axis in when:
        if axis not in group.axes:
            raise ConfigError(
                f"{where}: `when` asks for '{axis}', which is no axis of group '{group.name}'; they are {', '.join(group.axes)}"
            )


Row = TypeVar("Row")

_KINDS = {
    str: (str, "text"),
    UnionType: (str, "text"),  # str | None: a table that lacks the field
    bool: (bool, "true or false"),
    float: (int | float, "a number"),
    Mapping: (dict, "a table"),
    Sequence: (list, "an array"),
}


def _table(row: type[Row], values: Any, where: str) -> Row:
    """The dataclass `row` of a table; a ConfigError names the field that is unknown, missing or of another type."""
    known = {f.name: f for f in fields(row)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must be a table with the fields {', '.join(known)}")
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: `{name}` is not a field; the fields are {', '.join(known)}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}: `{name}` is missing; the fields are {', '.join(known)}")
    hints = get_type_hints(row)
    for name, value in values.items():
        kind, words = _KINDS[get_origin(hints[name]) or hints[name]]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{where}: `{name}` (={value!r}) must be {words}")
    return row(**values)
