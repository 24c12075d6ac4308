"""A torch module in eval mode to a `Network`, by torch.fx: every call in its forward becomes a node named by its module."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from bitplane.export.errors import ExportError
from bitplane.export.network import (
    INPUT,
    Add,
    Affine,
    Conv,
    Float64,
    GlobalAveragePool,
    MaxPool,
    Network,
    Normalize,
    PRelu,
    Quantize,
    Relu,
    Sign,
    Weight,
    integer_weight,
)
from bitplane.export.reading import Normalization, Reading, pair
from bitplane.train import activations, layers
from bitplane.train.layers import LowBitConv2d

SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, ReLU, PReLU, LeakyReLU, MaxPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, Identity, "
    "addition, zero-padded shortcuts, and bitplane.train's layers"
)
LEVEL_TOLERANCE = 1e-3
"""Largest distance of a weight from its level, in units of the level set's integers."""


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
    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int], normalize: Normalization | None) -> None:
        self.label = type(model).__name__
        self.modules = dict(model.named_modules())
        pixels = normalize is not None or any(isinstance(m, layers.PixelInput) for m in self.modules.values())
        self.reading = Reading(self.label, input_shape, pixels=pixels)
        self.values: dict[fx.Node, str] = {}
        self.normalize = normalize
        tracer = _Tracer()
        try:
            self.graph = tracer.trace(copy.deepcopy(model).eval())
        except Exception as e:  # a forward may raise anything under tracing
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise ExportError(
                f"{self.label}: torch.fx cannot trace its forward ({reason}); remove branches that depend on values"
            ) from e

    def read(self) -> Network:
        """Walk the traced calls."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if self.values:
                    raise ExportError(f"{self.label}: takes several inputs; export a network of one image input")
                self.values[node] = self._input()
            elif node.op == "output":
                (result,) = node.args
                if not isinstance(result, fx.Node):
                    raise ExportError(f"{self.label}: returns several values; return the logits alone")
                return self.reading.network(self.values[result])
            elif node.op == "call_module":
                self._module(node)
            elif node.op in ("call_function", "call_method"):
                self._function(node)
            elif node.op == "get_attr":
                raise self._unsupported(node, f"tensor '{node.target}'")
        raise ExportError(f"{self.label}: its forward returns nothing; return the logits")

    def _input(self) -> str:
        return INPUT if self.normalize is None else self.reading.normalize(self.normalize)

    def _where(self, node: fx.Node) -> str:
        stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
        return (list(stack.values())[-1][0] if stack else "") or ""

    def _name(self, node: fx.Node, kind: str) -> str:
        where = self._where(node)
        return f"{where}.{kind}" if where else kind

    def _unsupported(self, node: fx.Node, what: str) -> ExportError:
        where = self._where(node) or "forward"
        return ExportError(f"{self.label}: {where}: {what} is not supported; supported are {SUPPORTED}")

    def _value(self, node: fx.Node, of: Any) -> str:
        if not isinstance(of, fx.Node) or of not in self.values:
            raise self._unsupported(node, f"`{node.target}` of {of!r}")
        return self.values[of]

    def _module(self, node: fx.Node) -> None:
        path = str(node.target)
        module = self.modules[path]
        x = self._value(node, node.args[0])
        self.values[node] = self._layer(node, path, module, x)

    def _layer(self, node: fx.Node, path: str, m: nn.Module, x: str) -> str:
        add = self.reading.add
        match m:
            case layers.PixelInput():
                channels = self.reading.input_shape[0]
                return add(Normalize("pixels", x, np.full(channels, float(m.zero_point)), np.full(channels, float(m.scale))))
            case layers.PadShortcut():
                return self.reading.pad_shortcut(path, x, (m.stride, m.stride), 0, m.extra)
            case activations.LearnedStep():
                step = m.step.detach().cpu().abs().clamp(min=1e-8).float().item()
                if not np.isfinite(step):
                    raise ExportError(f"{path}: the activation step (={step}) is not finite; the training has diverged")
                return add(Quantize(path, x, step, m.top))
            case activations.Sign():
                return add(Sign(path, x, thresholds=None if m.threshold is None else self._finite(path, m.threshold)))
            case nn.Conv2d():
                return self._conv(node, path, m, x)
            case nn.Linear():
                bias = np.zeros(m.out_features) if m.bias is None else to_float64(m.bias)
                return self.reading.dense(path, x, to_float64(m.weight), bias)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                return add(Affine(path, x, *batch_norm_affine(m)))
            case nn.ReLU():
                return add(Relu(path, x))
            case nn.PReLU() if len(self.reading.shapes[x]) == 3:
                slope = self._finite(path, m.weight)
                return add(PRelu(path, x, np.broadcast_to(slope, (self.reading.shapes[x][0],)).copy()))
            case nn.LeakyReLU() if len(self.reading.shapes[x]) == 3:
                return add(PRelu(path, x, np.full(self.reading.shapes[x][0], m.negative_slope)))
            case nn.MaxPool2d():
                if m.ceil_mode or pair(m.dilation) != (1, 1) or m.return_indices:
                    raise self._unsupported(node, f"MaxPool2d '{path}' with ceil_mode, dilation or return_indices")
                return self._max_pool(path, x, m.kernel_size, m.stride, m.padding)
            case nn.AdaptiveAvgPool2d() if m.output_size in (1, (1, 1)):
                return add(GlobalAveragePool(path, x))
            case nn.AvgPool2d() if pair(m.kernel_size) == self.reading.shapes[x][1:]:
                return add(GlobalAveragePool(path, x))
            case nn.Flatten() if m.start_dim == 1:
                return self._flatten(x)
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return x
            case _:
                raise self._unsupported(node, f"layer '{path}' ({type(m).__name__})")

    def _finite(self, path: str, values: Tensor) -> Float64:
        if not bool(torch.isfinite(values).all()):
            raise ExportError(f"{path}: a value is not finite; the training has diverged")
        return to_float64(values)

    def _conv(self, node: fx.Node, path: str, m: nn.Conv2d, x: str) -> str:
        if isinstance(m.padding, str) or pair(m.dilation) != (1, 1) or m.padding_mode != "zeros":
            raise self._unsupported(node, f"Conv2d '{path}' with dilation, padding by name or a padding mode other than zeros")
        py, px = pair(m.padding)
        pad_value = 0.0
        if isinstance(m, layers.LowBitConv2d):
            integers = level_integers(path, m)
            unit = np.broadcast_to(to_float64(m.level_scale).reshape(-1), (m.out_channels,)) / m.levels.denominator
            weight, pad_value = integer_weight(integers, unit, m.levels.name), m.pad_value
        else:
            weight = Weight(to_float64(m.rounded() if isinstance(m, layers.PixelConv2d) else m.weight))
        if weight.floats is not None and not np.isfinite(weight.floats).all():
            raise ExportError(f"{path}: a weight is not finite; the training has diverged")
        bias = np.zeros(m.out_channels) if m.bias is None else to_float64(m.bias)
        pads = (py, px, py, px)
        return self.reading.add(Conv(path, x, weight, bias, pair(m.stride), pads, m.groups, pad_value if any(pads) else 0.0))

    def _max_pool(self, name: str, x: str, kernel: Any, stride: Any, padding: Any) -> str:
        py, px = pair(padding)
        size = pair(kernel)
        return self.reading.add(MaxPool(name, x, size, pair(stride) if stride else size, (py, px, py, px)))

    def _flatten(self, x: str) -> str:
        self.reading.flat.add(x)
        return x

    def _function(self, node: fx.Node) -> None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if name in ("getattr", "size", "dim") or any(isinstance(a, fx.Node) and a not in self.values for a in node.args[:1]):
            return  # sizes, and arithmetic on them; whoever needs one for a value is refused there
        if node.target in (operator.add, operator.iadd, torch.add) or name in ("add", "add_"):
            first, second = (self._value(node, a) for a in node.args[:2])
            self.values[node] = self.reading.add(Add(self._name(node, "add"), first, second))
            return
        make = _FUNCTIONS.get(name)
        if make is None:
            raise self._unsupported(node, f"`{name}`")
        self.values[node] = make(self, node, self._value(node, node.args[0]), list(node.args[1:]), dict(node.kwargs))

    def relu(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        return self.reading.add(Relu(self._name(node, "relu"), x))

    def alias(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        return x

    def flatten(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        start = args[0] if args else kwargs.get("start_dim", 0)
        if start != 1:
            raise self._unsupported(node, f"flatten from axis {start}")
        return self._flatten(x)

    def view(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        sizes = args[0] if args and isinstance(args[0], tuple | list) else args
        if len(sizes) != 2 or sizes[1] not in (-1, int(np.prod(self.reading.shapes[x]))):
            raise self._unsupported(node, f"view to {sizes}")
        return self._flatten(x)

    def mean(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        axes = args[0] if args else kwargs.get("dim")
        if not isinstance(axes, tuple | list) or sorted(a % 4 for a in axes) != [2, 3]:
            raise self._unsupported(node, f"mean over axes {axes}")
        pooled = self.reading.add(GlobalAveragePool(self._name(node, "avgpool"), x))
        keep = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
        return pooled if keep else self._flatten(pooled)

    def average_pool(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        kernel = args[0] if args else kwargs.get("kernel_size", kwargs.get("output_size"))
        adaptive = "adaptive" in str(getattr(node.target, "__name__", ""))
        # A kernel that is computed while the forward runs can only be the size of the input.
        whole = (
            kernel in (1, (1, 1), [1, 1])
            if adaptive
            else isinstance(kernel, fx.Node) or pair(kernel) == self.reading.shapes[x][1:]
        )
        if not whole:
            raise self._unsupported(node, f"average pooling that leaves more than one pixel ({kernel})")
        return self.reading.add(GlobalAveragePool(self._name(node, "avgpool"), x))

    def max_pool(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("ceil_mode") or pair(given.get("dilation", 1)) != (1, 1):
            raise self._unsupported(node, "max_pool2d with ceil_mode or dilation")
        return self._max_pool(
            self._name(node, "maxpool"), x, given["kernel_size"], given.get("stride"), given.get("padding", 0)
        )

    def subsample(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        cuts = args[0] if isinstance(args[0], tuple) else (args[0],)
        if not all(isinstance(c, slice) and c.start in (None, 0) and c.stop is None for c in cuts):
            raise self._unsupported(node, f"indexing by {cuts}")
        steps = [c.step or 1 for c in cuts] + [1] * (4 - len(cuts))
        if steps[:2] != [1, 1]:
            raise self._unsupported(node, f"indexing by {cuts}")
        return self.reading.pad_shortcut(self._name(node, "shortcut"), x, (steps[2], steps[3]), 0, 0)

    def pad(self, node: fx.Node, x: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        names = ("pad", "mode", "value")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        pads = [*given["pad"], 0, 0, 0, 0, 0, 0]
        if any(pads[:4]) or any(pads[6:]) or given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0):
            raise self._unsupported(node, f"pad by {given}")
        return self.reading.pad_shortcut(self._name(node, "shortcut"), x, (1, 1), pads[4], pads[5])


_FUNCTIONS: dict[str, Callable[[_Reader, fx.Node, str, list[Any], dict[str, Any]], str]] = {
    **dict.fromkeys(("relu", "relu_"), _Reader.relu),
    **dict.fromkeys(("dropout", "contiguous", "float", "clone"), _Reader.alias),
    "flatten": _Reader.flatten,
    **dict.fromkeys(("view", "reshape"), _Reader.view),
    "mean": _Reader.mean,
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d"), _Reader.average_pool),
    **dict.fromkeys(("max_pool2d", "boolean_dispatch"), _Reader.max_pool),
    "getitem": _Reader.subsample,
    "pad": _Reader.pad,
}


def quantizer_outputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What every activation quantizer of a module makes while it runs, by path: a reading of it is checked on these values."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: seen.setdefault(name, []).append(output.detach())

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
    return {name: torch.cat(parts) for name, parts in seen.items()}


def to_float64(tensor: Tensor) -> Float64:
    """A tensor's values as a float64 array of the same shape."""
    return tensor.detach().cpu().double().numpy()


def batch_norm_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Float64, Float64]:
    """The factor and offset, float64 [O] each, of BatchNorm in eval mode: BN(y) = factor y + offset.

    Raises:
        ExportError: it keeps no running statistics.
    """
    if bn.running_var is None or bn.running_mean is None:
        raise ExportError("a BatchNorm keeps no running statistics; train with track_running_stats=True")
    ones = np.ones(bn.num_features)
    factor = (to_float64(bn.weight) if bn.affine else ones) / np.sqrt(to_float64(bn.running_var) + bn.eps)
    return factor, (to_float64(bn.bias) if bn.affine else 0 * ones) - to_float64(bn.running_mean) * factor


def level_integers(name: str, conv: LowBitConv2d) -> NDArray[np.int8]:
    """The integer levels of a low-bit convolution, int8 [O, C, kh, kw].

    Raises:
        ExportError: a level scale is not positive, or a weight lies farther than `LEVEL_TOLERANCE` from every level.
    """
    level_scale = to_float64(conv.level_scale)
    if conv.scale_option == "two-sided":
        raise ExportError(
            f"{name}: positive and negative levels have scales of their own (method ttq), which no packed form holds; take"
            " --method twn, or with --scale layer --scale-fit learned, instead"
        )
    if not (np.isfinite(level_scale).all() and (level_scale > 0).all()):
        raise ExportError(f"{name}: a level scale is not positive and finite; train again with a smaller learning rate")
    units = to_float64(conv.weight) / level_scale * conv.levels.denominator
    levels = np.asarray(conv.levels.integers)
    distance = np.abs(units[..., None] - levels).min(-1)
    if not (distance <= LEVEL_TOLERANCE).all():
        count, most = int((~(distance <= LEVEL_TOLERANCE)).sum()), float(distance.max()) / conv.levels.denominator
        raise ExportError(
            f"{name}: {count} of {units.size} weights of this layer are not in the {conv.levels.name} level set"
            f" (off by up to {most:.3g} of its unit): finish or resume the run"
        )
    return np.rint(units).astype(np.int8)
