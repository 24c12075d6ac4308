"""Low-bit inference of packed files on the CPU: `InferenceSession` has onnxruntime's interface."""

from bitplane.runtime.describe import LayerInfo
from bitplane.runtime.errors import BitplaneError, InputError, ModelError
from bitplane.runtime.session import InferenceSession, ModelMetadata, NodeArg, SessionOptions

__all__ = [
    "BitplaneError",
    "InferenceSession",
    "InputError",
    "LayerInfo",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "SessionOptions",
]
