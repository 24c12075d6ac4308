"""Arithmetic on shapes, as exporters spell out `x.view(x.size(0), -1)`: computed while reading, the batch size left open."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Sizes = NDArray[np.object_]
"""Integers, and `BATCH` where the batch size, or something computed from it, stands."""


class _Batch:
    """The batch size, or a number computed from it: known only when the network runs."""

    def __repr__(self) -> str:
        return "batch"

    def _same(self, other: object) -> "_Batch":
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = _same


BATCH = _Batch()


def of_shape(shape: Sequence[int], attributes: dict[str, Any]) -> Sizes:
    """`Shape` of a value whose shape without the batch axis is given."""
    sizes = np.array([BATCH, *shape], object)
    return sizes[attributes.get("start", 0) : attributes.get("end")]


def has_batch(sizes: Sizes) -> bool:
    """Whether one of the sizes depends on the batch size."""
    return any(s is BATCH for s in sizes.reshape(-1))


def fold_sizes(node: onnx.NodeProto, inputs: list[Sizes | NDArray[Any]]) -> Sizes | None:
    """What a node makes of sizes; None if it is not one that is known."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    fold = _FOLDS.get(node.op_type)
    return None if fold is None else np.asarray(fold(attributes, *[np.asarray(i, object) for i in inputs]), object)


def _axes(given: Sizes | None, attributes: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in (attributes.get("axes", ()) if given is None else given.reshape(-1)))


def _gather(a: dict[str, Any], data: Sizes, indices: Sizes) -> Sizes:
    return np.take(data, indices.astype(np.int64), axis=a.get("axis", 0))


def _slice(
    a: dict[str, Any], data: Sizes, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None
) -> Sizes:
    if data.ndim != 1:
        raise ValueError("slices sizes of more than one axis")
    step = 1 if steps is None else int(steps.reshape(-1)[0])
    return data[int(starts.reshape(-1)[0]) : int(ends.reshape(-1)[0]) : step]


def _unsqueeze(a: dict[str, Any], data: Sizes, axes: Sizes | None = None) -> Sizes:
    return np.expand_dims(data, _axes(axes, a))


def _squeeze(a: dict[str, Any], data: Sizes, axes: Sizes | None = None) -> Sizes:
    return np.squeeze(data, _axes(axes, a) or None)


_FOLDS: dict[str, Callable[..., Any]] = {
    "Identity": lambda a, x: x,
    "Cast": lambda a, x: x,
    "Gather": _gather,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": lambda a, *x: np.concatenate(x, axis=a["axis"]),
    "Reshape": lambda a, x, shape: x.reshape([int(i) for i in shape]),
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x // y,
}
