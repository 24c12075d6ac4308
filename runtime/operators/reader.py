"""What has been read of a packed file so far, and the checks that every operator's `read` makes of its node.

Sizes are bounded in exact arithmetic before anything of their size is allocated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.levels import LevelSet, four_levels
from bitplane.format.limits import LEVEL_LIMIT, MAX_CHANNELS, MAX_ELEMENTS, MAX_STRIDE, MAX_WORK
from bitplane.format.pack import plane_bytes
from bitplane.format.text import plain
from bitplane.runtime.errors import ModelError
from bitplane.runtime.operators.base import Tensor

LOADED = "input.features"
"""Name of a float32 input as features, channels last."""

_DTYPES: dict[int, type[np.generic]] = {
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.FLOAT: np.float32,
}


@dataclass(frozen=True)
class Stored:
    """A float weight that a node made of integers.

    Attributes:
        values: float32(integers) * unit.
        kind: what the file stores: name of a level set, or "int8".
        integers: int8 of the same shape, where it is a matrix.
        unit: float32 [O], likewise.
    """

    values: NDArray[np.float32]
    kind: str
    integers: NDArray[np.int8] | None = None
    unit: NDArray[np.float32] | None = None


class Reader:
    """Constants and values of one file, by name; each method refuses what is not allowed.

    Attributes:
        label: what to call the file in messages.
        where: the node that is being read, for messages.
        initializers: constants of the file by name.
        tensors: every value so far.
        flat: flattened value -> features of one pixel that it came from.
        weights: float weights that nodes made.
        unpacked: elements of all weights so far, as they lie in memory.
        work: operations of one image so far.
    """

    def __init__(self, label: str, proto: onnx.ModelProto) -> None:
        self.label = label
        self.where = ""
        self.initializers = {t.name: t for t in proto.graph.initializer}
        self.tensors: dict[str, Tensor] = {}
        self.flat: dict[str, str] = {}
        self.weights: dict[str, Stored] = {}
        self.unpacked = 0
        self.work = 0

    def fail(self, problem: str, remedy: str = "export it again") -> ModelError:
        """The error for the node that is being read."""
        return ModelError(f"{self.label}: {plain(f'{self.where}{problem}')}; {remedy}")

    def add(self, name: str, tensor: Tensor, window: int = 1) -> None:
        """A new value, each element of which takes `window` operations."""
        self.new(name)
        if min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise self.fail(f"'{name}' would have shape {list(tensor.shape)}, expected 1 to {MAX_ELEMENTS} elements")
        if tensor.shape[0] > MAX_CHANNELS:
            raise self.fail(f"'{name}' would have {tensor.shape[0]} channels, at most {MAX_CHANNELS} are read")
        self.work += math.prod(tensor.shape) * window
        if self.work > MAX_WORK:
            raise self.fail(f"the model asks for more than {MAX_WORK} operations an image", "use smaller images")
        self.tensors[name] = tensor

    def new(self, name: str) -> None:
        """Check the name of a new value."""
        if not name or any(name in known for known in (self.tensors, self.flat, self.weights, self.initializers)):
            raise self.fail(f"output name '{name}' is empty or used twice")

    def inputs(self, node: onnx.NodeProto, count: int) -> list[str]:
        """Names of the inputs of a node that must have so many."""
        if len(node.input) != count:
            raise self.fail(f"has {len(node.input)} inputs, expected {count}")
        return list(node.input)

    def value(self, name: str, kind: str) -> Tensor:
        """A value that an earlier node made."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self.fail(f"input '{name}' is not made by an earlier node")
        if tensor.kind != kind:
            raise self.fail(f"input '{name}' holds {tensor.kind}, expected {kind}")
        return tensor

    def features(self, name: str) -> tuple[str, Tensor]:
        """The features that an input of this name stands for: their name, and what they are."""
        tensor = self.tensors.get(name)
        name = LOADED if tensor is not None and tensor.kind == "floats" else name
        return name, self.value(name, "features")

    def constant(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> NDArray[Any]:
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

    def dims(self, name: str) -> list[int]:
        """Shape of an initializer."""
        if name not in self.initializers:
            raise self.fail(f"input '{name}' is not an initializer")
        return list(self.initializers[name].dims)

    def attributes(
        self, node: onnx.NodeProto, lengths: Mapping[str, int] = {}, defaults: Mapping[str, object] = {}
    ) -> dict[str, tuple[int, ...]]:
        """The integer attributes of a node.

        Args:
            node: the node.
            lengths: attributes that it must have, each a list of that many integers (0: one integer).
            defaults: attributes that it may have, with the only value supported; it must have no others.
        """
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
            if key not in defaults or defaults[key] != value:
                raise self.fail(f"attribute '{key}' = {value} is not supported")
        return out

    def level_set(self, node: onnx.NodeProto, lengths: Mapping[str, int]) -> tuple[LevelSet, dict[str, tuple[int, ...]]]:
        """The level set of a node with planes, by its operator or its attribute `levels`, and its other attributes."""
        if node.op_type in fmt.LEVELS:
            return fmt.LEVELS[node.op_type], self.attributes(node, lengths)
        found = self.attributes(node, {"levels": 2, **lengths})
        low, high = found.pop("levels")
        if not 0 < low < high <= LEVEL_LIMIT:
            raise self.fail(f"levels are {[low, high]}, expected two ascending integers of 1 to {LEVEL_LIMIT}")
        return four_levels(low, high), found

    def window(
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

    def scale_and_bias(self, names: Sequence[str], channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The factors of a convolution on integers, float32 [channels] each."""
        scale = self.constant(names[0], np.float32, (channels, 1, 1)).reshape(-1)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise self.fail(f"scale '{names[0]}' must be positive and finite, its smallest value is {scale.min()}")
        return scale, self.finite("bias", names[1], (channels, 1, 1)).reshape(-1)

    def finite(self, what: str, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """A float32 constant of finite numbers."""
        values = self.constant(name, np.float32, shape)
        if not np.isfinite(values).all():
            raise self.fail(f"{what} '{name}' must be finite")
        return values

    def positive(self, what: str, name: str) -> float:
        """A float32 constant of one positive finite number."""
        value = float(self.constant(name, np.float32, ()))
        if not (math.isfinite(value) and value > 0):
            raise self.fail(f"{what} '{name}' is {value}, expected a positive finite number")
        return value

    def plane(self, name: str, rows: int, weights: int) -> NDArray[np.uint8]:
        """One bit-plane: uint8 [rows, ceil(weights / 8)] whose padding bits are 0."""
        plane = self.constant(name, np.uint8, (rows, plane_bytes(weights)))
        used = weights % 8
        if used and (plane[:, -1] >> used).any():
            raise self.fail(f"plane '{name}' has padding bits set after its {weights} weights")
        return plane

    def planes(self, levels: LevelSet, names: Sequence[str], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], ...]:
        """The planes of a weight [O, kh, kw, C]; every combination of their bits must be a level."""
        planes = tuple(self.plane(name, shape[0], math.prod(shape[1:])) for name in names)
        if levels.plane_names == ("sign", "mask") and (planes[0] & ~planes[1]).any():
            raise self.fail(f"sign '{names[0]}' is set where mask '{names[1]}' is 0")
        return planes

    def unpack_budget(self, elements: int) -> None:
        """Weights of the whole file are bounded together: a plane of one bit becomes a byte or a float, channels are padded."""
        self.unpacked += elements
        if self.unpacked > MAX_ELEMENTS:
            raise self.fail(f"the weights of the file, unpacked, have more than {MAX_ELEMENTS} elements together")

    def store_weight(self, node: onnx.NodeProto, integers: NDArray[np.int8], unit: NDArray[np.float32], kind: str) -> None:
        """Keep the float weight that a node makes."""
        self.new(node.output[0])
        with np.errstate(over="ignore"):  # an infinite weight is refused where it is read
            values = integers.astype(np.float32) * unit
        dense = (integers, unit.reshape(-1)) if integers.ndim == 2 else (None, None)
        self.weights[node.output[0]] = Stored(values, kind, *dense)

    def float_weight(self, name: str, rank: int) -> Stored:
        """A float weight of `rank` axes: what a node made, or an initializer."""
        if name in self.weights:
            stored = self.weights[name]
        else:
            dims = self.dims(name)
            self.unpack_budget(math.prod(dims))
            stored = Stored(self.constant(name, np.float32, dims), "float")
        value = stored.values
        if value.ndim != rank or not value.size:
            raise self.fail(f"weight '{name}' has shape {list(value.shape)[:8]}, expected {rank} axes")
        if not np.isfinite(value).all():
            raise self.fail(f"weight '{name}' must be finite")
        return stored
