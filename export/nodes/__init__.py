"""Node types, one a file: its data, the shape of its value, its evaluation in torch, and how each form of file writes it.

The folder is the index: `node_types` reads it. Beside the node types it holds what they share: `weight` and `epilogue`.
"""

import importlib
import inspect
import pkgutil

from bitplane.export.network import Node


def node_types() -> dict[str, type[Node]]:
    """Every node type by its name, from the files of this folder."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {
        c.__name__: c
        for module in modules
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Node) and c.__module__ == module.__name__
    }
