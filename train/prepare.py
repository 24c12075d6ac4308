"""A network of one's own made low-bit, module by module, and back: `prepare` and `restore`.

    nn.Conv2d, nn.Linear      ->  LowBitConv2d, LowBitLinear     weights of a level set, which the optimizer drives them to
    nn.Conv2d, "int8"         ->  Int8Conv2d                     weights rounded to 8 bits in every forward pass

The modules stay the same objects under the same names; their class changes, and they get a scale, and a quantizer of what they
read. So hooks, references, parameters, dtype, device and memory format are kept, and no line of a forward is touched. Tracing
is not needed; where torch.fx can trace the forward it tells which layers read the same value, and which values are never
negative (`bitplane.train.data_flow`).
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from torch import nn

from bitplane.train.activations import ACTIVATION_QUANTIZERS, LearnedStep
from bitplane.train.config import ScaleOption
from bitplane.train.data_flow import DataFlow, data_flow
from bitplane.train.errors import ConfigError
from bitplane.train.layers import CodedConv2d, CodedLayer, CodedLinear, Int8Conv2d, LowBitConv2d, LowBitLayer, LowBitLinear
from bitplane.train.level_sets import WEIGHT_LEVELS
from bitplane.train.tables import has_row, names_of

Patterns = Mapping[str, str] | str
"""One name for all layers, or names by pattern (`layer3.*`), of which the last that matches a layer counts."""
ActivationPatterns = Mapping[str, int | str] | int | str

OTHER_WEIGHTS = ("int8", "float")
"""What `weights` may say beside the name of a level set."""
FLOAT = 32
"""`activations` that stay in floating point."""


@dataclass(frozen=True)
class PreparedLayer:
    """What became of a layer.

    Attributes:
        name: its path in the network.
        kind: its class before.
        weights: a level set, "int8" or "float".
        activations: bits, or the name, of what it reads; 32 is float.
        note: why the layer, or what it reads, stays as it is; or the layer whose quantizer it shares.
    """

    name: str
    kind: str
    weights: str
    activations: int | str
    note: str = ""


@dataclass(frozen=True)
class Preparation:
    """What became of each layer of a network; printed, it is a table."""

    layers: tuple[PreparedLayer, ...]

    def __str__(self) -> str:
        """A line a layer."""
        rows = [("layer", "kind", "weights", "activations", "")]
        rows += [(p.name, p.kind, p.weights, str(p.activations), p.note) for p in self.layers]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row[:4], widths, strict=True)), row[4]]).rstrip() for row in rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Choice:
    """What a layer shall become."""

    weights: str
    activations: int | str
    note: str


def prepare(
    model: nn.Module,
    weights: Patterns = "ternary",
    activations: ActivationPatterns = 4,
    *,
    keep: Sequence[str] | None = None,
    scale: ScaleOption = "channel",
) -> Preparation:
    """Make a network's convolutions and fully connected layers low-bit, in place.

    Args:
        model: any module. Its weights, dtype, device, memory format, hooks and modules' names stay.
        weights: "binary", "ternary", "quaternary", a registered level set, "int8" (rounded in every forward pass) or "float"
            (as they are): one for all layers, or by pattern, the last match counts, a layer without a match stays as it is.
            Depthwise convolutions take 8 bits unless a pattern, other than `*`, names another for them.
        activations: bits (8, 4, 2, 1; 32 is float) of what low-bit layers read, or a registered quantizer's name; likewise.
            Codes have no sign: a layer whose input may be negative reads floats unless a pattern, other than `*`, names bits
            for it. By such a pattern a layer of float weights reads codes too.
        keep: patterns of layers that stay as they are. Default: the first convolution and the last fully connected layer.
        scale: factor of the level set: one a "channel", one a "layer", "none" (the set itself), or "two-sided" (method ttq).

    Returns:
        What became of each layer and why.

    Raises:
        ConfigError: a pattern names no layer, a level set or quantizer is unknown, a layer has too few weights for its scale,
            two layers share a weight, or the network is prepared already in another way. The network is then as it was.
    """
    if scale not in get_args(ScaleOption):
        raise ConfigError(f"`scale` (={scale!r}) must be one of {', '.join(get_args(ScaleOption))}")
    layers = _layers(model)
    choices = _choose(layers, weights, activations, keep)
    flow = data_flow(model, {n for n, c in choices.items() if c.activations != FLOAT})
    choices = {n: _read_as(n, c, flow, activations) for n, c in choices.items()}
    owners = _owners(choices, flow)
    if any(isinstance(m, CodedLayer | Int8Conv2d) for m in layers.values()):
        _check_same(layers, choices, scale)
        return _table(layers, choices, owners)
    _check_shared(model, choices)
    made: list[str] = []
    try:
        for name, choice in choices.items():
            made.append(name)
            _convert(layers[name], choice, scale)
    except ConfigError as e:
        for name in made:
            _undo(layers[name])
        raise ConfigError(f"{made[-1]}: {e}") from None
    _quantize_inputs(layers, choices, owners)
    return _table(layers, choices, owners)


def restore(model: nn.Module) -> None:
    """Make a prepared network's layers ordinary ones again, in place, with the weights that they have now.

    Raises:
        ConfigError: the network is not prepared.
    """
    found = [m for m in model.modules() if isinstance(m, CodedLayer | Int8Conv2d)]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no layer that `prepare` made: there is nothing to restore")
    for m in found:
        _undo(m)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that has a weight of a convolution or fully connected layer, in the order of modules."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    layers: dict[str, nn.Module] = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
    if not layers:
        raise ConfigError(f"{type(model).__name__} has neither convolutions nor fully connected layers to make low-bit")
    return layers


def _choose(
    layers: Mapping[str, nn.Module],
    weights: Patterns,
    activations: ActivationPatterns,
    keep: Sequence[str] | None,
) -> dict[str, _Choice]:
    kept = _edges(layers) if keep is None else _matching("keep", tuple(keep), layers)
    by_weights = {"*": weights} if isinstance(weights, str) else dict(weights)
    by_bits = {"*": activations} if isinstance(activations, int | str) else dict(activations)
    for option, patterns, known in (
        ("weights", by_weights, OTHER_WEIGHTS),
        ("activations", by_bits, ()),
    ):
        _matching(option, tuple(patterns), layers)
        for value in patterns.values():
            if value not in known and not has_row(option, value):
                choices = ", ".join(map(str, (*names_of(option), *known)))
                raise ConfigError(f"`{option}` (={value!r}) must be one of {choices}")
    result: dict[str, _Choice] = {}
    for name, m in layers.items():
        pattern = _last_match(name, by_weights)
        wanted = by_weights[pattern] if pattern is not None else "float"
        note = "" if pattern is not None else "no pattern names it"
        if name in kept:
            wanted, note = "float", "kept" if keep is not None else "kept: the first or last layer"
        elif wanted not in OTHER_WEIGHTS and _is_depthwise(m) and pattern == "*":
            wanted, note = "int8", "depthwise"
        if wanted != "float" and (reason := _why_not(m, wanted)):
            wanted, note = "float", reason
        bits = _last_match(name, by_bits)
        reads = FLOAT if bits is None else by_bits[bits]
        if wanted in OTHER_WEIGHTS and (wanted == "int8" or bits == "*" or name in kept or _why_not(m, "coded")):
            reads = FLOAT
        result[name] = _Choice(wanted, reads, note)
    return result


def _edges(layers: Mapping[str, nn.Module]) -> set[str]:
    """Names of the first convolution and the last fully connected layer."""
    convs = [n for n, m in layers.items() if not isinstance(m, nn.Linear)]
    dense = [n for n, m in layers.items() if isinstance(m, nn.Linear)]
    return {*convs[:1], *dense[-1:]}


def _matching(option: str, patterns: Sequence[str], layers: Mapping[str, nn.Module]) -> set[str]:
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise ConfigError(f"`{option}` (={pattern!r}) names no layer; layers are {', '.join(layers)}")
    return {n for n in layers if any(fnmatch.fnmatchcase(n, p) for p in patterns)}


def _last_match(name: str, patterns: Mapping[str, object]) -> str | None:
    return next((p for p in reversed(list(patterns)) if fnmatch.fnmatchcase(name, p)), None)


def _is_depthwise(m: nn.Module) -> bool:
    return isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels


def _why_not(m: nn.Module, wanted: str) -> str:
    """Why a layer cannot become what is wanted; "" if it can."""
    ours = isinstance(m, CodedLayer | Int8Conv2d)
    if not ours and type(m) not in ({nn.Conv2d} if wanted == "int8" else {nn.Conv2d, nn.Linear}):
        return f"a {type(m).__name__} has no {wanted} form"
    if isinstance(m, nn.Conv2d) and m.padding_mode != "zeros":
        return f"padding mode {m.padding_mode}"
    return ""


def _read_as(name: str, choice: _Choice, flow: DataFlow, activations: ActivationPatterns) -> _Choice:
    """The choice, with floats in place of codes where the layer may read negative values and nobody asked for codes there."""
    asked = not isinstance(activations, int | str) and _last_match(name, activations) not in (None, "*")
    has_sign = isinstance(choice.activations, int) and choice.activations in (2, 4, 8)
    if not has_sign or asked or name not in flow.may_be_negative:
        return choice
    return _Choice(choice.weights, FLOAT, "reads values that may be negative: codes have no sign")


def _check_shared(model: nn.Module, choices: Mapping[str, _Choice]) -> None:
    """Refuse a weight that is to be quantized and that another layer uses as well."""
    owners: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(p), name)
        for path in (first, name) if first != name else ():
            layer = path.rpartition(".")[0]
            if layer in choices and choices[layer].weights != "float" and path.endswith("weight"):
                raise ConfigError(f"{layer}: shares its weight with `{name if path == first else first}`; keep it (`keep`)")


def _convert(m: nn.Module, choice: _Choice, scale: ScaleOption) -> None:
    dense = isinstance(m, nn.Linear)
    if choice.weights == "int8":
        _become(m, Int8Conv2d)
    elif choice.weights != "float":
        _become(m, LowBitLinear if dense else LowBitConv2d)
        cast(LowBitLayer, m).make_low_bit(WEIGHT_LEVELS[choice.weights], scale)
    elif choice.activations != FLOAT:
        _become(m, CodedLinear if dense else CodedConv2d)
        cast(CodedLayer, m).make_coded()


def _become(m: nn.Module, kind: type[nn.Module]) -> None:
    """The same object, of another class: what holds it, hooks and parameters stay."""
    m.__class__ = kind  # pyright: ignore[reportAttributeAccessIssue]


def _undo(m: nn.Module) -> None:
    if isinstance(m, CodedLayer):
        m._buffers.pop("level_scale", None)
        m._modules.pop("quantizer", None)
        for name in ("levels", "scale_option", "quantizer", "pad_value", "_shared", "_fitted"):
            m.__dict__.pop(name, None)
        _become(m, nn.Linear if isinstance(m, nn.Linear) else nn.Conv2d)
    elif isinstance(m, Int8Conv2d):
        _become(m, nn.Conv2d)


def _owners(choices: Mapping[str, _Choice], flow: DataFlow) -> dict[str, str]:
    """Every layer that reads through a quantizer, and the layer that owns it: the first that reads the same value."""
    first: dict[tuple[str, int | str], str] = {}
    return {
        name: first.setdefault((flow.value_of.get(name, name), choice.activations), name)
        for name, choice in choices.items()
        if choice.activations != FLOAT
    }


def _quantize_inputs(layers: Mapping[str, nn.Module], choices: Mapping[str, _Choice], owners: Mapping[str, str]) -> None:
    """Give low-bit layers the quantizers of what they read."""
    for name, owner in owners.items():
        m, first = layers[name], layers[owner]
        assert isinstance(m, CodedLayer)
        assert isinstance(first, CodedLayer)
        if name == owner:
            m.read_through(_quantizer(name, choices[name].activations, m), own=True)
        elif first.quantizer is not None:
            m.read_through(first.quantizer, own=False)


def _table(layers: Mapping[str, nn.Module], choices: Mapping[str, _Choice], owners: Mapping[str, str]) -> Preparation:
    rows: list[PreparedLayer] = []
    for name, choice in choices.items():
        m = layers[name]
        ours = isinstance(m, CodedLayer | Int8Conv2d)
        kind = type(m).__name__ if not ours else "Linear" if isinstance(m, nn.Linear) else "Conv2d"
        note = choice.note if owners.get(name, name) == name else f"reads what {owners[name]} reads"
        rows.append(PreparedLayer(name, kind, choice.weights, choice.activations, note))
    return Preparation(tuple(rows))


def _channels(m: CodedLayer) -> int:
    return m.in_features if isinstance(m, CodedLinear) else cast(CodedConv2d, m).in_channels


def _quantizer(name: str, kind: int | str, m: CodedLayer) -> nn.Module:
    made = ACTIVATION_QUANTIZERS[kind](_channels(m)).to(m.weight.device).train(m.training)
    if isinstance(made, LearnedStep):
        made.layer = name
    return made


def _check_same(layers: Mapping[str, nn.Module], choices: Mapping[str, _Choice], scale: ScaleOption) -> None:
    """Refuse a network that is prepared in another way.

    Raises:
        ConfigError: it is.
    """
    for name, choice in choices.items():
        m = layers[name]
        had, same = "float weights", choice.weights == "float"
        if isinstance(m, LowBitLayer):
            had = f"{m.levels.name} weights of scale {m.scale_option}"
            same = (m.levels.name, m.scale_option) == (choice.weights, scale)
        if isinstance(m, CodedLayer):
            same = same and _has_kind(m, choice.activations)
        elif isinstance(m, Int8Conv2d):
            had, same = "int8 weights", choice.weights == "int8"
        if not same:
            raise ConfigError(
                f"{name}: is prepared already, with {had}; call `bitplane.restore(model)` before you prepare it with"
                f" {choice.weights} weights, `scale` {scale}, `activations` {choice.activations}"
            )


def _has_kind(m: CodedLayer, kind: int | str) -> bool:
    """Whether a layer's quantizer is what would be made for it."""
    quantizer = m.input_quantizer
    if quantizer is None or kind == FLOAT:
        return quantizer is None and kind == FLOAT
    like = ACTIVATION_QUANTIZERS[kind](_channels(m))
    shapes = [{n: v.shape for n, v in q.state_dict().items()} for q in (quantizer, like)]
    return type(quantizer) is type(like) and shapes[0] == shapes[1] and vars(quantizer).get("bits") == vars(like).get("bits")
