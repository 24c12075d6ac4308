"""What torch.fx tells of a forward: which layers read the same value, and which values may be negative."""

import operator
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from bitplane.train.layers import Int8Conv2d, LowBitLayer, PadShortcut, PixelInput


@dataclass(frozen=True)
class DataFlow:
    """What some layers read.

    Attributes:
        value_of: name of a layer to the name of the value that it reads; a layer that is missing reads one of its own.
        may_be_negative: layers that read a value of which nothing says that it is never negative. Empty where the forward
            cannot be traced: then the first forward pass tells.
    """

    value_of: dict[str, str]
    may_be_negative: frozenset[str]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, LowBitLayer | Int8Conv2d | PadShortcut | PixelInput)
        return ours or super().is_leaf_module(m, module_qualified_name)


def data_flow(model: nn.Module, layers: Set[str]) -> DataFlow:
    """Trace a network.

    Args:
        model: not modified.
        layers: names of the layers to look at.

    Returns:
        What they read; empty if torch.fx cannot trace the network.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # a forward may raise anything under tracing
        return DataFlow({}, frozenset())
    modules = dict(model.named_modules())
    known: dict[fx.Node, bool] = {}
    value_of: dict[str, str] = {}
    negative: set[str] = set()
    for node in graph.nodes:
        known[node] = _never_negative(node, modules, known)
        name = str(node.target)
        if node.op == "call_module" and name in layers:
            read = node.all_input_nodes[0]
            if value_of.setdefault(name, read.name) != read.name:
                value_of[name] = name  # called again on another value
            if not known[read]:
                negative.add(name)
    return DataFlow(value_of, frozenset(negative))


def _never_negative(node: fx.Node, modules: dict[str, nn.Module], known: dict[fx.Node, bool]) -> bool:
    inputs = [known.get(n, False) for n in node.all_input_nodes]
    all_inputs = bool(inputs) and all(inputs)
    if node.op == "call_module":
        m = modules[str(node.target)]
        if isinstance(m, nn.Hardtanh):  # ReLU6 is one
            return m.min_val >= 0
        return isinstance(m, _POSITIVE_MODULES) or (isinstance(m, _KEEPING_MODULES) and all_inputs)
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in (functional.hardtanh, functional.hardtanh_):
        return float(_argument(node, 1, "min_val", -1.0)) >= 0
    if node.target in (
        operator.add,
        operator.iadd,
        operator.mul,
        operator.imul,
        torch.add,
        torch.mul,
        "add",
        "add_",
        "mul",
        "mul_",
    ):
        all_inputs &= all(a >= 0 for a in (*node.args, *node.kwargs.values()) if isinstance(a, int | float))
    if node.target in _POSITIVE or node.target in _POSITIVE_METHODS:
        return True
    return all_inputs and (node.target in _KEEPING or node.target in _KEEPING_METHODS)


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


_POSITIVE_MODULES = (nn.ReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softplus)
_KEEPING_MODULES = (
    nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.ZeroPad2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, PadShortcut,
)  # fmt: skip
"""Modules whose result is not negative where no input is."""

_POSITIVE: set[Callable[..., Any]] = {
    torch.relu, torch.relu_, functional.relu, functional.relu_, functional.relu6, torch.sigmoid, functional.sigmoid,
    functional.hardsigmoid, torch.softmax, functional.softmax, functional.softplus, torch.abs, torch.exp, torch.square,
}  # fmt: skip
_POSITIVE_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "softmax", "abs", "exp", "square"}
_KEEPING: set[Callable[..., Any]] = {
    operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat, torch.concat, torch.flatten,
    torch.reshape, torch.permute, torch.transpose, torch.mean, torch.max_pool2d, functional.max_pool2d, functional.avg_pool2d,
    functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d, functional.dropout, functional.dropout2d,
    functional.interpolate, functional.pixel_shuffle, getattr, operator.getitem, torch.chunk, torch.split,
}  # fmt: skip
_KEEPING_METHODS = {
    "add", "add_", "mul", "mul_", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "mean", "size", "chunk",
    "split", "clone", "detach", "squeeze", "unsqueeze",
}  # fmt: skip
"""Functions and methods likewise."""
