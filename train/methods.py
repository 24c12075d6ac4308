"""The methods by name: each is an update rule, a quantizer, the schedule of its sharpness, and how scales are found.

The rows of Table 1 of Dockhorn et al. (NeurIPS 2021) and their successors; the optimizer (`bitplane.train.optimizer`) takes any
combination, so a new method is a new row (`register_method`):

    name             rule  quantizer               sharpness                    scale
    bc               pc    projector               hard                         -              BinaryConnect
    bc-stochastic    pc    stochastic rounding     constant, then hard          -              BinaryConnect, stochastic
    pc               pc    L, rho = varrho         linear                       -              ProxConnect
    pq               pq    L, rho = varrho         linear                       -              ProxQuant (binary L1, ternary)
    rpc              rpc   L, rho = varrho         linear                       -              reverseProxConnect
    ptq              ptq   projector, at the end   hard                         -              post-training quantization
    binary-relax     pc    BinaryRelax             mu geometric                 least squares  BinaryRelax
    bwn              pc    projector               hard                         least squares  XNOR-Net's binary weights
    twn              pc    projector               hard                         twn            ternary weight networks
    ttq              pc    projector               hard                         ttq            trained ternary quantization
    mirror-tanh      pc    tanh                    beta geometric               -              mirror descent
    bnn              pc    projector, clipped      hard                         -              ProxConnect++: BNN
    bnn+             pc    projector, sign-Swish'  beta geometric               -              ProxConnect++: BNN+
    bnn++            pc    sign-Swish and its '    beta geometric               -              ProxConnect++: BNN++
    parq             pc    PARQ's map              slope by a sigmoid           least squares  PARQ
    pc-random        pc    projector or identity   share from 0 to 1            -              Theorem 3.2, random choice
    pc-averaged      pc    their average           share from 0 to 1            -              Theorem 3.2, averaged map

"-" takes the scale that the model was given (`scale` none, layer or channel; re-estimated where it is not none).
"""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import Enum

from torch import Generator, Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.config import ModelConfig, OptimizerConfig, ScaleFitOption, ScaleOption
from bitplane.train.errors import ConfigError
from bitplane.train.quantizers import random, smooth
from bitplane.train.quantizers.piecewise_linear import binary_relax, parq, projector, proxconnect
from bitplane.train.quantizers.scale import ScaleFit
from bitplane.train.schedules import Form
from bitplane.train.tables import Table

Quantizer = Callable[[Tensor, LevelSet, float], Tensor]
RandomQuantizer = Callable[[Tensor, LevelSet, float, Generator], Tensor]


class Point(Enum):
    """Where a gradient is taken or an update starts."""

    LATENT = "latent"
    QUANTIZED = "quantized"


@dataclass(frozen=True)
class Rule:
    """An update rule: two switches (see `bitplane.train.optimizer`)."""

    gradient_at: Point
    starts_from: Point


PC = Rule(Point.QUANTIZED, Point.LATENT)
PQ = Rule(Point.QUANTIZED, Point.QUANTIZED)
RPC = Rule(Point.LATENT, Point.QUANTIZED)
PTQ = Rule(Point.LATENT, Point.LATENT)


@dataclass(frozen=True)
class Method:
    """A row of the table above.

    Attributes:
        rule: where the gradient is taken and from where the update starts.
        quantizer: map of latents in units of the level set, given the level set and a sharpness; inf is the projector.
        form: of the sharpness over the steps, see `Sharpness`.
        first: sharpness at step 0 unless the user gives one.
        last: see `Sharpness`.
        random: the quantizer also takes a generator.
        backward: non-negative factor of the gradient as a function of the same arguments.
        fit: how scales are found, if the method has its own way.
        levels: the only level sets that the method is defined for; empty for any.
        clamped: latents are kept near [q_1, q_b].
    """

    rule: Rule
    quantizer: Quantizer | RandomQuantizer
    form: Form
    first: float = 0.0
    last: float = math.inf
    random: bool = False
    backward: Quantizer | None = None
    fit: ScaleFit | None = None
    levels: tuple[str, ...] = ()
    clamped: bool = True


def _hard(unit: Tensor, levels: LevelSet, sharpness: float) -> Tensor:
    return projector(unit, levels)


METHODS: Table[str, Method] = Table(
    "method",
    {
        "bc": Method(PC, _hard, "hard"),
        "bc-stochastic": Method(PC, random.stochastic, "constant", random=True),
        "pc": Method(PC, proxconnect, "linear", 0.01),
        "pq": Method(PQ, proxconnect, "linear", 1e-6),
        "rpc": Method(RPC, proxconnect, "linear", 1e-6),
        "ptq": Method(PTQ, _hard, "hard"),
        "binary-relax": Method(PC, binary_relax, "geometric", 1.0, 24.0, fit="least-squares"),
        "bwn": Method(PC, _hard, "hard", fit="least-squares", levels=("binary",)),
        "twn": Method(PC, _hard, "hard", fit="twn", levels=("ternary",)),
        "ttq": Method(PC, _hard, "hard", fit="ttq", levels=("ternary",)),
        "mirror-tanh": Method(PC, smooth.tanh, "geometric", 1.0, 50.0, clamped=False),
        "bnn": Method(PC, _hard, "hard", backward=smooth.clip_backward),
        "bnn+": Method(PC, _hard, "geometric", 1.0, 10.0, backward=smooth.sign_swish_backward),
        "bnn++": Method(PC, smooth.sign_swish, "geometric", 1.0, 10.0, backward=smooth.sign_swish_backward),
        "parq": Method(PC, parq, "sigmoid", 1.0, 10.0, fit="least-squares"),
        "pc-random": Method(PC, random.chosen, "share", random=True),
        "pc-averaged": Method(PC, random.averaged, "share"),
    },
    Method,
)
"""Every method by the name that `method` takes."""


def register_method(name: str, method: Method) -> None:
    """Let `method` name a row of your own, in every process that calls this first, also before a run is resumed.

    Args:
        name: a new one.
        method: the row.

    Raises:
        ConfigError: the name cannot be used or is taken.
    """
    METHODS.register(name, method)


def method_of(optimizer: OptimizerConfig, model: ModelConfig) -> Method:
    """The method of a configuration.

    Raises:
        ConfigError: it is not defined for these weights or scales, or never reaches the hard projection.
    """
    name, method = optimizer.method, METHODS[optimizer.method]
    sets = {model.weights, *(e.rpartition("=")[2] for e in model.layer_weights)} - {"float", "int8"}
    scales: set[ScaleOption] = {model.scale} if sets or model.scale == "two-sided" else set()
    check_method(name, method, sets, scales, optimizer.soft)
    return method


def check_method(name: str, method: Method, levels: Set[str], scales: Set[ScaleOption], soft: float) -> None:
    """Refuse what does not go together.

    Args:
        name: of the method, for messages.
        method: the row.
        levels: names of the level sets of the low-bit layers.
        scales: options of their scales.
        soft: share of the steps before the quantizer becomes the projector.

    Raises:
        ConfigError: the method is not defined for these, or never reaches the hard projection.
    """
    other = levels - set(method.levels) if method.levels else set[str]()
    if other:
        raise ConfigError(f"`method` (={name}) is defined for {' and '.join(method.levels)} weights, not {min(other)}")
    if method.fit == "ttq" and scales - {"two-sided"}:
        raise ConfigError(
            f"`method` (={name}) learns both levels of a layer: it needs `scale` two-sided, not {min(scales - {'two-sided'})}"
        )
    if method.fit != "ttq" and "two-sided" in scales:
        raise ConfigError(f"`scale` (=two-sided) goes with `method` ttq, not {name}")
    if method.fit in ("twn", "least-squares") and "none" in scales:
        raise ConfigError(f"`method` (={name}) estimates scales: it needs `scale` layer or channel, not none")
    if "two-sided" in scales and levels - {"ternary"}:
        raise ConfigError(f"`scale` (=two-sided) needs ternary weights, not {min(levels - {'ternary'})}")
    if soft >= 1 and method.form != "hard":
        raise ConfigError(f"`soft` (={soft:g}) leaves no step for the hard projection of method {name}; take less than 1")


def scale_fit(method: Method, option: ScaleFitOption, scale: ScaleOption) -> ScaleFit:
    """How a scale moves: the method's own way, or as the options of the optimizer and of the layer say."""
    if method.fit in ("twn", "ttq"):
        return method.fit
    if scale == "none":
        return "fixed"
    return "least-squares" if option == "method" else option
