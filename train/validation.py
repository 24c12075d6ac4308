"""The check of a configuration's fields: types and choices from their annotations and open tables, ranges given."""

import math
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from bitplane.train.errors import ConfigError
from bitplane.train.tables import has_row, names_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_fields(config: "DataclassInstance", **ranges: tuple[float, float]) -> None:
    """Refuse a configuration with an unusable field.

    Args:
        config: a dataclass whose fields are annotated by a Literal, str, bool, int, float, X | None, tuple[X, ...] or a class.
        ranges: smallest and largest value of numeric fields, both included.

    Raises:
        ConfigError: names the first field that is not of its type, not among its choices, not finite or out of range.
    """
    hints = _hints(type(config))
    for name in (f.name for f in fields(config)):
        value, hint = getattr(config, name), hints[name]
        if isinstance(hint, UnionType):  # X | None
            if value is None:
                continue
            hint = get_args(hint)[0]
        if get_origin(hint) is tuple:
            if not (isinstance(value, tuple) and all(_is(v, get_args(hint)[0]) for v in value)):
                raise ConfigError(f"`{name}` (={value!r}) must be a list of {get_args(hint)[0].__name__}")
        elif get_origin(hint) is Literal:
            is_own = any(value == c and type(value) is type(c) for c in get_args(hint))
            if not (is_own or has_row(name, value)):
                choices = dict.fromkeys((*get_args(hint), *names_of(name)))
                raise ConfigError(f"`{name}` (={value!r}) must be one of {', '.join(map(str, choices))}")
        elif not _is(value, hint):
            raise ConfigError(f"`{name}` (={value!r}) must be of type {hint.__name__}")
        elif name in ranges and not ranges[name][0] <= value <= ranges[name][1]:
            low, high = ranges[name]
            limit = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise ConfigError(f"`{name}` (={value}) must be {limit}")


@cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
