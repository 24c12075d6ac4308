"""A torch module in eval mode to a `Network`, by torch.fx: every call in its forward becomes a node named by its module."""

import copy
import operator
from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitplane.export.errors import ExportError, first_line
from bitplane.export.network import INPUT, Network
from bitplane.export.read.construction import NetworkBuilder, Normalization, Value
from bitplane.export.read.torch_call import BATCH, Call
from bitplane.export.read.torch_functions import COPIES, FUNCTIONS, SIZES
from bitplane.export.read.torch_modules import MODULES
from bitplane.train import activations, layers


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential) and m.__module__.startswith(
            ("torch.nn", "torch.ao.nn", layers.__name__, activations.__name__)
        )


def read_torch(model: nn.Module, input_shape: tuple[int, int, int], normalize: Normalization | None = None) -> Network:
    """Read a torch module.

    Args:
        model: any module on [N, C, H, W] whose forward torch.fx can trace; not modified.
        input_shape: (C, H, W) of its input.
        normalize: mean and std [C] in pixels: the network then reads uint8 pixels and gives (pixel - mean) / std to the module.
            A module that starts with `PixelInput` reads pixels without it.

    Raises:
        ExportError: a layer or operation is not supported (its path and the supported ones are named), low-bit weights are off
            their level set, or the forward cannot be traced.
    """
    return _Reader(model, input_shape, normalize).read()


class _Reader:
    """The walk over the traced calls.

    Attributes:
        values: what every call that makes a tensor makes.
        sizes: what every call that makes sizes (numbers, or tuples of them) makes.
        storage: the call whose memory a call's tensor shares: an operation in place changes all of them.
        codes: what a quantizer of a layer's input makes of a value, which other layers may read too.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int], normalize: Normalization | None) -> None:
        self.label = type(model).__name__
        self.modules = dict(model.named_modules())
        self.paths = {m: name for name, m in self.modules.items()}
        self.codes: dict[tuple[str, nn.Module], Value] = {}
        pixels = normalize is not None or any(isinstance(m, layers.PixelInput) for m in self.modules.values())
        self.builder = NetworkBuilder(self.label, input_shape, pixels=pixels)
        self.values: dict[fx.Node, Value] = {}
        self.sizes: dict[fx.Node, Any] = {}
        self.storage: dict[fx.Node, fx.Node] = {}
        self.normalize = normalize
        try:
            self.graph = _Tracer().trace(copy.deepcopy(model).eval())
        except Exception as e:  # a forward may raise anything under tracing
            raise ExportError(
                f"{self.label}: torch.fx cannot trace its forward ({first_line(e)}); remove branches that depend on values"
            ) from e

    def read(self) -> Network:
        """Walk the traced calls."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if self.values:
                    raise ExportError(f"{self.label}: takes several inputs; export a network of one image input")
                self.values[node] = Value(INPUT) if self.normalize is None else self.builder.normalize(self.normalize)
                self.storage[node] = node
            elif node.op == "output":
                (result,) = node.args
                if not isinstance(result, fx.Node):
                    raise ExportError(f"{self.label}: returns several values; return the logits alone")
                return self.builder.network(self.values[result])
            elif node.op == "get_attr":
                raise self._call(node, "").refuse(f"tensor '{node.target}'")
            else:
                self._read_call(node)
        raise ExportError(f"{self.label}: its forward returns nothing; return the logits")

    def _call(self, node: fx.Node, name: str) -> Call:
        stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
        where = (list(stack.values())[-1][0] if stack else "") or ""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.sizes.get(n, n))  # type: ignore[arg-type]
        kwargs, args = dict(kwargs), list(args)
        if not args and "input" in kwargs:
            args.append(kwargs.pop("input"))
        return Call(self.builder, self.values, name, where, args, kwargs)

    def _read_call(self, node: fx.Node) -> None:
        if node.op == "call_module":
            name = str(node.target)
            module = self.modules[name]
            call = self._call(node, name)
            read = next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
            if read is None:
                raise call.refuse(f"layer '{name}' ({type(module).__name__})")
            if isinstance(module, layers.CodedLayer) and module.input_quantizer is not None:
                call = replace(call, values=ChainMap({call.args[0]: self._codes(call, module.input_quantizer)}, self.values))
            out, in_place, is_copy = read(call, module), bool(getattr(module, "inplace", False)), False
        else:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            call = self._call(node, name)
            if self._read_size(node, name, call):
                return
            out, in_place, is_copy = self._function(name, call), _is_in_place(node, name, call), name in COPIES
        x = node.all_input_nodes[0]
        shares = self.values[x].name == out.name and not is_copy
        if in_place:
            for other in [n for n, storage in self.storage.items() if storage is self.storage[x]]:
                self.values[other] = Value(out.name, self.values[other].flat)
        self.values[node] = out
        self.storage[node] = self.storage[x] if shares or in_place else node

    def _codes(self, call: Call, quantizer: nn.Module) -> Value:
        """What a layer reads through the quantizer of its input."""
        key, path = (call.x.name, quantizer), self.paths[quantizer]
        read = next((MODULES[kind] for kind in type(quantizer).__mro__ if kind in MODULES), None)
        if read is None:
            raise call.refuse(f"quantizer '{path}' ({type(quantizer).__name__})")
        if key not in self.codes:
            self.codes[key] = read(replace(call, name=path), quantizer)
        return self.codes[key]

    def _function(self, name: str, call: Call) -> Value:
        read = FUNCTIONS.get(name)
        if read is None:
            raise call.refuse(f"`{name}`")
        try:
            return read(call, *call.args[1:], **call.kwargs)
        except TypeError as e:
            raise call.refuse(f"`{name}` of {call.describe()}") from e

    def _read_size(self, node: fx.Node, name: str, call: Call) -> bool:
        """Whether the call makes sizes rather than a tensor; those of the batch axis are `BATCH`."""
        first = call.args[0] if call.args else None
        if isinstance(first, fx.Node) and first in self.values:
            shape = (BATCH, *self.builder.seen_shape(self.values[first]))
            if name == "size" or (name == "getattr" and call.args[1] == "shape"):
                asked = [*call.args[1:], *call.kwargs.values()] if name == "size" else []
                self.sizes[node] = shape[asked[0]] if asked else shape
                return True
            if name == "dim" or (name == "getattr" and call.args[1] == "ndim"):
                self.sizes[node] = len(shape)
                return True
            return False
        if name not in SIZES or any(isinstance(a, fx.Node) for a in call.args):
            return False
        is_batch = name != "getitem" and any(a is BATCH for a in call.args)
        try:
            self.sizes[node] = BATCH if is_batch else SIZES[name](*call.args)
        except (TypeError, IndexError, ZeroDivisionError) as e:
            raise call.refuse(f"`{name}` of {call.describe()}") from e
        return True


def _is_in_place(node: fx.Node, name: str, call: Call) -> bool:
    """Whether a function or method writes into its first argument."""
    by_name = name.endswith("_") and not name.endswith("__")
    return (
        by_name
        or node.target is operator.iadd
        or call.kwargs.get("inplace") is True
        or (name == "relu" and True in call.args[1:])
    )


def quantizer_outputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What every activation quantizer of a module makes while it runs: a reading of it is checked on these values.

    Args:
        model: the module.
        run: runs it once.

    Returns:
        The values by the quantizer's path; of its second input by `PATH_2`, and so on, as `NetworkBuilder.unique` names them.
    """
    seen: dict[str, list[Tensor]] = {}
    read: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not any(inputs[0] is x for x in read.setdefault(name, [])):  # layers may share a quantizer of one value
                read[name].append(inputs[0])
                seen.setdefault(name, []).append(output.detach())

        return hook

    handles = [
        m.register_forward_hook(keep(name))
        for name, m in model.named_modules()
        if isinstance(m, activations.LearnedStep | activations.Sign)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {f"{name}_{i}" if i > 1 else name: part for name, parts in seen.items() for i, part in enumerate(parts, 1)}
