"""Low-bit inference of packed files on the CPU: `InferenceSession` has onnxruntime's interface."""

from bitplane.runtime.describe import LayerInfo
from bitplane.runtime.errors import BitplaneError, InputError, ModelError
from bitplane.runtime.session import InferenceSession, ModelMetadata, NodeArg, SessionOptions
from bitplane.runtime.totals import ModelCost, StepCost, model_cost

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
