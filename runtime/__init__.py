"""Low-bit inference of packed files on the CPU: `InferenceSession` has onnxruntime's interface.

What a session does not need to run is loaded on first use (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING

from bitplane.errors import BitplaneError
from bitplane.runtime.errors import InputError, ModelError
from bitplane.runtime.options import (
    ExecutionMode,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
    get_available_providers,
    get_device,
)
from bitplane.runtime.session import InferenceSession, ModelMetadata, NodeArg

if TYPE_CHECKING:
    from bitplane.runtime.binding import IOBinding, OrtValue
    from bitplane.runtime.inspect.describe import LayerInfo
    from bitplane.runtime.inspect.model_cost import ModelCost, StepCost, model_cost

_HOMES = {
    **dict.fromkeys(("IOBinding", "OrtValue"), "bitplane.runtime.binding"),
    "LayerInfo": "bitplane.runtime.inspect.describe",
    **dict.fromkeys(("ModelCost", "StepCost", "model_cost"), "bitplane.runtime.inspect.model_cost"),
}
"""Public name to the module that defines it."""

__all__ = [
    "BitplaneError",
    "ExecutionMode",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "InputError",
    "LayerInfo",
    "ModelCost",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "RunOptions",
    "SessionOptions",
    "StepCost",
    "get_available_providers",
    "get_device",
    "model_cost",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitplane.runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
