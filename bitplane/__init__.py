"""Low-bit convolutional networks, from training to the CPU: train, export to one ONNX file of bit-planes, and run it.

The public names below are loaded on first use (PEP 562): `import bitplane` loads neither torch nor numba.
"""

import importlib

from bitplane.errors import BitplaneError

TYPE_CHECKING = False  # `typing` itself takes half of the time of this import
if TYPE_CHECKING:
    from bitplane.export import to_onnx
    from bitplane.runtime import InferenceSession, SessionOptions

    __version__: str

_HOMES = {
    "InferenceSession": "bitplane.runtime",
    "SessionOptions": "bitplane.runtime",
    "to_onnx": "bitplane.export",
}
"""Public name to the module that defines it."""

__all__ = ["BitplaneError", "InferenceSession", "SessionOptions", "__version__", "to_onnx"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # 15 ms

        return version("bitplane")
    if name not in _HOMES:
        raise AttributeError(f"module 'bitplane' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
