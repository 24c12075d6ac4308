"""Low-bit inference of packed files on the CPU: `InferenceSession` has onnxruntime's interface."""

from bitplane.errors import BitplaneError
from bitplane.runtime.binding import IOBinding, OrtValue
from bitplane.runtime.errors import InputError, ModelError
from bitplane.runtime.inspect.describe import LayerInfo
from bitplane.runtime.inspect.model_cost import ModelCost, StepCost, model_cost
from bitplane.runtime.options import (
    ExecutionMode,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
    get_available_providers,
    get_device,
)
from bitplane.runtime.session import InferenceSession, ModelMetadata, NodeArg

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
