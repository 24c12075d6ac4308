"""Low-bit inference of packed files on the CPU: `InferenceSession` has onnxruntime's interface."""

from bitplane.errors import BitplaneError
from bitplane.runtime.errors import InputError, ModelError
from bitplane.runtime.inspect.describe import LayerInfo
from bitplane.runtime.inspect.model_cost import ModelCost, StepCost, model_cost
from bitplane.runtime.session import InferenceSession, ModelMetadata, NodeArg, SessionOptions

__all__ = [
    "BitplaneError",
    "InferenceSession",
    "InputError",
    "LayerInfo",
    "ModelCost",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "SessionOptions",
    "StepCost",
    "model_cost",
]
