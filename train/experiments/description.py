"""A description of experiments as read from its file; `bitplane.train.experiments` shows the form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bitplane.documents import Kind, read_toml
from bitplane.train.errors import ConfigError

DESCRIPTION = Kind("an experiment description", "help(bitplane.train.experiments) shows one", ConfigError)

VARIANT = "variant"
"""An axis that is no option of a run: overrides give its names a meaning."""

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""Of an option or an axis."""


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs for the runs of a group whose axes have certain values.

    Attributes:
        when: axis to value.
        options: options of a run, in place of the group's.
        init: False to start at random although the group names a start.
        teacher: group whose runs are the teachers, in place of the group's; "" for none.
    """

    when: dict[str, Value]
    options: dict[str, Value] = {}
    init: bool = True
    teacher: str | None = None


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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

    name: Annotated[str, msgspec.Meta(min_length=1)]
    axes: dict[str, Annotated[list[Value], msgspec.Meta(min_length=1)]]
    columns: str
    options: dict[str, Value] = {}
    init: str = ""
    teacher: str = ""
    override: list[Override] = []


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published figure.

    Attributes:
        group: name of the group it belongs beside.
        when: axis to value.
        top1: accuracy in percent, as it was published.
    """

    group: str
    when: dict[str, Value]
    top1: Annotated[float, msgspec.Meta(ge=0, le=100)]


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
    common: Mapping[str, Value]
    references: Sequence[Reference]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # The top level of the file: names of fields are those of its tables.
    title: str
    group: Annotated[list[Group], msgspec.Meta(min_length=1)]
    about: str = ""
    common: dict[str, Value] = {}
    reference: list[Reference] = []


def read_experiment(path: Path) -> Experiment:
    """Read a description.

    Args:
        path: a TOML file.

    Raises:
        ConfigError: the file is missing or no TOML, a table has an unknown, missing or mistyped field, or names what does not
            exist; the message names the file and the place in it.
    """
    document = read_toml(path, _Document, DESCRIPTION)
    groups, references = document.group, document.reference
    try:
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


def _check_groups(groups: Sequence[Group]) -> None:
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
        for axis, values in g.axes.items():
            if again := [v for j, v in enumerate(values) if v in values[:j]]:
                raise ConfigError(f"{where}: axis `{axis}` has {again[0]!r} twice")
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
