"""What has been read of a packed file so far, and what a constant, an attribute or a value of it may be.

Sizes are bounded in exact arithmetic before anything of their size is allocated.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.pack import plane_bytes
from bitplane.runtime.errors import ModelError
from bitplane.runtime.model import MAX_CHANNELS, MAX_ELEMENTS, MAX_STRIDE, MAX_WORK, Tensor

MAX_MESSAGE = 400
"""Characters of a message; names in a file may be longer."""
LOADED = "input.features"
"""Name of a float32 input as features, channels last."""

_DEFAULTS: dict[str, dict[str, object]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1]},
    "MaxPool": {"ceil_mode": 0, "dilations": [1, 1], "storage_order": 0, "auto_pad": b"NOTSET"},
    "Flatten": {"axis": 1},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
}
"""Attributes that a file may write, with the only value supported."""

_DTYPES: dict[int, type[np.generic]] = {
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.FLOAT: np.float32,
}


def plain(text: str) -> str:
    """Text with names from the file in it, as one printable line of bounded length."""
    short = text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def round_up(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


class Values:
    """Constants and values of one file, by name; each method refuses what is not allowed.

    Attributes:
        label: what to call the file in messages.
        where: the node that is being read, for messages.
        initializers: constants of the file by name.
        tensors: every value so far.
        flat: flattened value -> features of one pixel that it came from.
        weights: float weights made by nodes, and what they are stored as.
        dense: integers and units of those of two axes.
        unpacked: elements of all weights so far, as they lie in memory.
        work: operations of one image so far.
    """

    def __init__(self, label: str, proto: onnx.ModelProto) -> None:
        self.label = label
        self.where = ""
        self.initializers = {t.name: t for t in proto.graph.initializer}
        self.tensors: dict[str, Tensor] = {}
        self.flat: dict[str, str] = {}
        self.weights: dict[str, tuple[NDArray[np.float32], str]] = {}
        self.dense: dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        self.unpacked = 0
        self.work = 0

    def fail(self, problem: str, remedy: str = "export it again") -> ModelError:
        """The error for the node that is being read."""
        return ModelError(f"{self.label}: {plain(f'{self.where}{problem}')}; {remedy}")

    def _add(self, name: str, tensor: Tensor, window: int = 1) -> None:
        """A new value, each element of which takes `window` operations."""
        self._new(name)
        if min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise self.fail(f"'{name}' would have shape {list(tensor.shape)}, expected 1 to {MAX_ELEMENTS} elements")
        if tensor.shape[0] > MAX_CHANNELS:
            raise self.fail(f"'{name}' would have {tensor.shape[0]} channels, at most {MAX_CHANNELS} are read")
        self.work += math.prod(tensor.shape) * window
        if self.work > MAX_WORK:
            raise self.fail(f"the model asks for more than {MAX_WORK} operations an image", "use smaller images")
        self.tensors[name] = tensor

    def _new(self, name: str) -> None:
        if not name or any(name in known for known in (self.tensors, self.flat, self.weights, self.initializers)):
            raise self.fail(f"output name '{name}' is empty or used twice")

    def _inputs(self, node: onnx.NodeProto, count: int) -> list[str]:
        if len(node.input) != count:
            raise self.fail(f"has {len(node.input)} inputs, expected {count}")
        return list(node.input)

    def _value(self, name: str, kind: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is not None and tensor.kind == "floats" and kind == "features":
            return self._value(LOADED, kind)
        if tensor is None:
            raise self.fail(f"input '{name}' is not made by an earlier node")
        if tensor.kind != kind:
            raise self.fail(f"input '{name}' holds {tensor.kind}, expected {kind}")
        return tensor

    def _constant(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> NDArray[Any]:
        """An initializer of exactly this type and shape."""
        proto = self.initializers.get(name)
        if proto is None:
            raise self.fail(f"input '{name}' is not an initializer")
        if _DTYPES.get(proto.data_type) is not dtype:
            raise self.fail(f"'{name}' has type {onnx.TensorProto.DataType.Name(proto.data_type)}, expected {dtype.__name__}")
        if list(proto.dims) != list(shape):
            raise self.fail(f"'{name}' has shape {list(proto.dims)}, expected {list(shape)}")
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            raise self.fail(f"'{name}' lies in another file")
        items = (
            len(proto.raw_data) // np.dtype(dtype).itemsize if proto.raw_data else len(proto.int32_data) + len(proto.float_data)
        )
        if items != math.prod(shape):
            raise self.fail(f"'{name}' holds {items} values, expected {math.prod(shape)}")
        return onnx.numpy_helper.to_array(proto)

    def _dims(self, name: str) -> list[int]:
        if name not in self.initializers:
            raise self.fail(f"input '{name}' is not an initializer")
        return list(self.initializers[name].dims)

    def _attributes(self, node: onnx.NodeProto, **lengths: int) -> dict[str, tuple[int, ...]]:
        """The integer attributes a node must have, each a list of that length (0: one integer)."""
        found: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
        if len(found) != len(node.attribute):
            raise self.fail("an attribute comes twice, or refers to one of a function")
        out: dict[str, tuple[int, ...]] = {}
        for key, length in lengths.items():
            value = found.pop(key, None)
            ints: list[Any] = cast("list[Any]", value) if isinstance(value, list) and length else [cast("Any", value)]
            if len(ints) != max(length, 1) or not all(isinstance(i, int) for i in ints):
                raise self.fail(f"attribute '{key}' is {value}, expected {length or 'an'} integer{'s' if length else ''}")
            out[key] = tuple(ints)
        for key, value in found.items():
            if key not in _DEFAULTS.get(node.op_type, {}) or _DEFAULTS[node.op_type][key] != value:
                raise self.fail(f"attribute '{key}' = {value} is not supported")
        return out

    def _window(
        self, shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
    ) -> tuple[int, int]:
        """Output height and width of a sliding window."""
        if not 1 <= min(strides) <= max(strides) <= MAX_STRIDE:
            raise self.fail(f"strides are {list(strides)}: strides must be positive, at most {MAX_STRIDE}")
        if min(pads) < 0 or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
            raise self.fail(f"pads are {list(pads)}, expected pads in [0, kernel)")
        out = [(shape[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1)]
        if any(shape[i] + pads[i] + pads[i + 2] < kernel[i] for i in (0, 1)):
            raise self.fail(f"kernel {list(kernel)} is larger than its padded input {list(shape)}")
        return out[0], out[1]

    def _scale_and_bias(self, names: Sequence[str], channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scale = self._constant(names[0], np.float32, (channels, 1, 1)).reshape(-1)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise self.fail(f"scale '{names[0]}' must be positive and finite, its smallest value is {scale.min()}")
        return scale, self._finite("bias", names[1], (channels, 1, 1)).reshape(-1)

    def _finite(self, what: str, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """A float32 constant of finite numbers."""
        values = self._constant(name, np.float32, shape)
        if not np.isfinite(values).all():
            raise self.fail(f"{what} '{name}' must be finite")
        return values

    def _positive(self, what: str, name: str) -> float:
        """A float32 constant of one positive finite number."""
        value = float(self._constant(name, np.float32, ()))
        if not (math.isfinite(value) and value > 0):
            raise self.fail(f"{what} '{name}' is {value}, expected a positive finite number")
        return value

    def _plane(self, name: str, rows: int, weights: int) -> NDArray[np.uint8]:
        plane = self._constant(name, np.uint8, (rows, plane_bytes(weights)))
        used = weights % 8
        if used and (plane[:, -1] >> used).any():
            raise self.fail(f"plane '{name}' has padding bits set after its {weights} weights")
        return plane

    def _planes(self, op: str, names: Sequence[str], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], ...]:
        planes = tuple(self._plane(name, shape[0], math.prod(shape[1:])) for name in names)
        if op in (fmt.TERNARY_CONV, fmt.TERNARY_WEIGHT) and (planes[0] & ~planes[1]).any():
            raise self.fail(f"sign '{names[0]}' is set where mask '{names[1]}' is 0")
        return planes

    def _unpack_budget(self, elements: int) -> None:
        """Weights of the whole file are bounded together: a plane of one bit becomes a byte or a float, channels are padded."""
        self.unpacked += elements
        if self.unpacked > MAX_ELEMENTS:
            raise self.fail(f"the weights of the file, unpacked, have more than {MAX_ELEMENTS} elements together")

    def _weight(self, node: onnx.NodeProto, integers: NDArray[np.int8], unit: NDArray[np.float32], stored: str) -> None:
        self._new(node.output[0])
        with np.errstate(over="ignore"):  # an infinite weight is refused where it is read
            self.weights[node.output[0]] = integers.astype(np.float32) * unit, stored
        if integers.ndim == 2:
            self.dense[node.output[0]] = integers, unit.reshape(-1)

    def _float_weight(self, name: str, rank: int) -> tuple[NDArray[np.float32], str]:
        """A float weight of `rank` axes: what a node made, or an initializer."""
        if name in self.weights:
            value, stored = self.weights[name]
        else:
            dims = self._dims(name)
            self._unpack_budget(math.prod(dims))
            value, stored = self._constant(name, np.float32, dims), "float"
        if value.ndim != rank or not value.size:
            raise self.fail(f"weight '{name}' has shape {list(value.shape)[:8]}, expected {rank} axes")
        if not np.isfinite(value).all():
            raise self.fail(f"weight '{name}' must be finite")
        return value, stored

    def _named(self, source: str) -> str:
        """The features that an input of this name stands for."""
        return LOADED if self.tensors[source].kind == "floats" else source
