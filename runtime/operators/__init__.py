"""The operators of a packed file, one file each: the checked node, how it is read, what it means, how it runs.

A file of this folder that defines `OPERATORS`, {(domain, operator): how to read it}, adds its operators to the table.
"""

import importlib
import pkgutil
from collections.abc import Callable

import onnx

from bitplane.runtime.operators.base import Node
from bitplane.runtime.operators.reader import Reader

Read = Callable[[Reader, onnx.NodeProto], Node | None]


def _collect() -> dict[tuple[str, str], Read]:
    table: dict[tuple[str, str], Read] = {}
    for module in pkgutil.iter_modules(__path__):
        table.update(getattr(importlib.import_module(f"{__name__}.{module.name}"), "OPERATORS", {}))
    return table


OPERATORS = _collect()
"""(domain, operator) to the function that checks a node and makes the runtime's own of it, or None where it makes no value."""
