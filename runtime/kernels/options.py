"""The one place for numba's options.

No fastmath: float operations keep their order and rounding, so results are the same bits on every machine. No numba cache: the
finished code is kept by `bitplane.runtime.execute.machine_code`.
"""

from typing import Any

INNER: dict[str, Any] = {"nogil": True, "boundscheck": False, "fastmath": False, "error_model": "numpy"}
"""Functions that only compiled code calls."""

ENTRY: dict[str, Any] = {**INNER, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""The entry point: called by its address, so it needs no wrapper that refers to Python or numba."""
