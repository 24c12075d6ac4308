"""Low-bit convolutional networks, from training to the CPU: train, export to one ONNX file of bit-planes, and run it.

The public names below are loaded on first use (PEP 562): `import bitplane` loads neither torch nor numba.
"""

import importlib

from bitplane.errors import BitplaneError

TYPE_CHECKING = False  # `typing` itself takes half of the time of this import
if TYPE_CHECKING:
    from bitplane.export import to_onnx
    from bitplane.format.levels import level_set
    from bitplane.runtime import InferenceSession, SessionOptions
    from bitplane.train.activations import register_activation
    from bitplane.train.finish import finish
    from bitplane.train.level_sets import register_level_set
    from bitplane.train.methods import register_method
    from bitplane.train.optimizer import ProxOptimizer
    from bitplane.train.prepare import prepare, restore

    __version__: str

_HOMES = {
    "InferenceSession": "bitplane.runtime",
    "ProxOptimizer": "bitplane.train.optimizer",
    "SessionOptions": "bitplane.runtime",
    "level_set": "bitplane.format.levels",
    "finish": "bitplane.train.finish",
    "prepare": "bitplane.train.prepare",
    "register_activation": "bitplane.train.activations",
    "register_level_set": "bitplane.train.level_sets",
    "register_method": "bitplane.train.methods",
    "restore": "bitplane.train.prepare",
    "to_onnx": "bitplane.export",
}
"""Public name to the module that defines it."""

__all__ = [
    "BitplaneError", "InferenceSession", "ProxOptimizer", "SessionOptions", "__version__", "finish", "level_set", "prepare",
    "register_activation", "register_level_set", "register_method", "restore", "to_onnx",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # 15 ms

        return version("bitplane")
    if name not in _HOMES:
        raise AttributeError(f"module 'bitplane' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
