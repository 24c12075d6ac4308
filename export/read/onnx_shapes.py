"""What ONNX's operators that change shapes are read as: pools, flattening, slicing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bitplane.export.nodes.global_average_pool import GlobalAveragePool
from bitplane.export.nodes.max_pool import MaxPool
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.read.construction import Value
from bitplane.export.read.onnx_node import OnnxNode
from bitplane.export.read.onnx_sizes import BATCH


def max_pool(node: OnnxNode) -> Value | None:
    """`MaxPool`."""
    a = node.a
    if (
        a.get("ceil_mode", 0)
        or a.get("storage_order", 0)
        or any(d != 1 for d in a.get("dilations", ()))
        or len(node.proto.output) != 1
    ):
        return None
    kernel, strides = tuple(a["kernel_shape"]), tuple(a.get("strides", (1, 1)))
    pads = node.window_pads(kernel, strides)
    return node.add(MaxPool(node.name, node.x.name, kernel, strides, pads))  # type: ignore[arg-type]


def average_pool(node: OnnxNode) -> Value | None:
    """`GlobalAveragePool`, or an `AveragePool` as large as its input."""
    x = node.x
    whole = node.op == "GlobalAveragePool"
    if not whole:
        kernel, strides = tuple(node.a["kernel_shape"]), tuple(node.a.get("strides", (1, 1)))
        plain = not any(d != 1 for d in node.a.get("dilations", ()))
        whole = plain and kernel == node.shape(x)[1:] and not any(node.window_pads(kernel, strides))
    return node.add(GlobalAveragePool(node.name, x.name)) if whole else None


def reduce_mean(node: OnnxNode) -> Value | None:
    """`ReduceMean` over all pixels."""
    axes, x = node.integers(1, "axes"), node.x
    if sorted(i % 4 for i in axes) != [2, 3] or len(node.shape(x)) != 3 or x.flat:
        return None
    return node.builder.add(GlobalAveragePool(node.name, x.name), flat=not node.a.get("keepdims", 1))


def flatten(node: OnnxNode) -> Value | None:
    """`Flatten`, `Reshape` or `Squeeze` to [N, K]."""
    x = node.x
    if node.op == "Flatten":
        whole = node.a.get("axis", 1) == 1
    elif node.op == "Reshape":
        size = int(np.prod(node.shape(x)))
        target = node.sizes(1)
        is_batch = len(target) == 2 and (target[0] is BATCH or target[0] == 0)
        whole = len(target) == 2 and ((is_batch and target[1] in (-1, size)) or (target[0] == -1 and target[1] == size))
    else:
        whole = sorted(i % 4 for i in node.integers(1, "axes", [2, 3])) == [2, 3]
    return replace(x, flat=True) if whole and len(node.shape(x)) == 3 else None


def subsample(node: OnnxNode) -> Value | None:
    """`Slice` of every second pixel."""
    if len(node.proto.input) < 5 or not all(node.proto.input):
        return None
    starts, ends, axes, steps = (node.constant(i).tolist() for i in range(1, 5))
    shape = node.shape(node.x)
    if len(shape) != 3 or any(starts) or any(e < shape[i % 4 - 1] for e, i in zip(ends, axes, strict=True) if i % 4):
        return None
    by = dict(zip((i % 4 for i in axes), steps, strict=True))
    if by.get(0, 1) != 1 or by.get(1, 1) != 1 or min(by.values()) < 1:
        return None
    return node.add(PadShortcut(node.name, node.x.name, (by.get(2, 1), by.get(3, 1)), 0, 0))


OPERATORS: dict[str, Callable[[OnnxNode], Value | None]] = {
    "MaxPool": max_pool,
    **dict.fromkeys(("GlobalAveragePool", "AveragePool"), average_pool),
    "ReduceMean": reduce_mean,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), flatten),
    "Slice": subsample,
}
