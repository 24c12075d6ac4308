"""The update rules of the ProxConnect family as one optimizer wrapper with two switches.

Every rule keeps latent weights w* and quantized weights w = P(w*); it is named by the point at which the gradient is taken
and the point from which the update starts (Dockhorn et al., NeurIPS 2021):

    rule  eq.    gradient at  starts from
    bc    3      w            w*            P is the projector from the first step
    pc    31     w            w*            P = L_rho^varrho with growing rho
    pq    5      w            w
    rpc   36     w*           w
    ptq   7      w*           w*            P is applied once, at the end

What each tensor holds: between steps the model's parameter is the point of the gradient. Where that point is w but the
update starts from w*, w* lives in `ProxOptimizer.latent` (float32, shape of the parameter).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from bitplane.train.levels import LevelSet
from bitplane.train.quantizers import nearest_scale, piecewise_linear, projector


class Point(Enum):
    """Where a gradient is taken or an update starts."""

    LATENT = "latent"
    QUANTIZED = "quantized"


@dataclass(frozen=True)
class Rule:
    """An update rule: two switches, and whether the quantizer is the projector from the first step."""

    name: str
    gradient_at: Point
    starts_from: Point
    always_hard: bool = False


RULES = {
    r.name: r
    for r in (
        Rule("bc", Point.QUANTIZED, Point.LATENT, always_hard=True),
        Rule("pc", Point.QUANTIZED, Point.LATENT),
        Rule("pq", Point.QUANTIZED, Point.QUANTIZED),
        Rule("rpc", Point.LATENT, Point.QUANTIZED),
        Rule("ptq", Point.LATENT, Point.LATENT),
    )
}


@dataclass(frozen=True)
class RhoSchedule:
    """rho_t = varrho_t = (1 + t / period) rho_0, t in gradient steps; infinite from step `hard_from` on.

    Attributes:
        rho_0: first value, in units of the level set.
        period: gradient steps after which rho has grown by rho_0 (B in the paper).
        hard_from: gradient step from which the quantizer is the projector.
    """

    rho_0: float
    period: float
    hard_from: int

    def __call__(self, step: int) -> float:
        """The value of rho and varrho at gradient step `step`."""
        return math.inf if step >= self.hard_from else (1 + step / self.period) * self.rho_0


@dataclass(frozen=True)
class Target:
    """A low-bit parameter: the tensor the model sees, its level set, and the factor of that set.

    Attributes:
        parameter: float32 [O, ...].
        levels: its level set.
        scale: float32 buffer [O, 1, ...] or [1, 1, ...], updated in place while it is re-estimated.
        estimate_scale: re-estimate `scale` from the latent weights every `scale_every` steps until the hard stage.
    """

    parameter: Tensor
    levels: LevelSet
    scale: Tensor
    estimate_scale: bool


class ProxOptimizer(torch.optim.Optimizer):
    """Wrap any optimizer so that the targets' weights move by one of the rules; other parameters move as before.

    `param_groups` and `state` are the wrapped optimizer's own: learning-rate schedulers and Accelerate see one optimizer.

    Args:
        base: the wrapped optimizer; holds all parameters, the targets included.
        targets: the low-bit parameters.
        rule: one of `RULES`.
        schedule: rho = varrho as a function of the gradient step.
        clamp: latent weights are kept within clamp * scale * [q_1, q_b] after each step.
        scale_every: gradient steps between two estimates of the scales.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        targets: Sequence[Target],
        rule: Rule,
        schedule: Callable[[int], float],
        clamp: float = 1.0,
        scale_every: int = 10,
    ) -> None:
        # Deliberately no super().__init__: groups, state and defaults are the base's own.
        self.base = base
        self.targets = list(targets)
        self.rule = rule
        self.schedule = schedule
        self.clamp = clamp
        self.scale_every = scale_every
        self.step_count = 0
        self.defaults = base.defaults
        # Not in the base's state: Adam takes a non-empty state for one that it has filled itself.
        self.latent: dict[Tensor, Tensor] = (
            {t.parameter: t.parameter.detach().clone() for t in self.targets} if self._keeps_latent else {}
        )
        if rule.gradient_at is Point.QUANTIZED:
            self._quantize_parameters(self._rho(0))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's state; the latent weights are in `latent`."""
        return self.base.state

    @property
    def _keeps_latent(self) -> bool:
        return self.rule.gradient_at is Point.QUANTIZED and self.rule.starts_from is Point.LATENT

    def _rho(self, step: int) -> float:
        return math.inf if self.rule.always_hard else self.schedule(step)

    def _latent(self, t: Target) -> Tensor:
        return self.latent.get(t.parameter, t.parameter)

    @torch.no_grad()
    def _quantize_parameters(self, rho: float) -> None:
        for t in self.targets:
            t.parameter.copy_(piecewise_linear(self._latent(t), t.levels, rho, rho, t.scale))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update: move to the starting point, let the wrapped optimizer step, clamp, quantize."""
        rho = self._rho(self.step_count)
        if self._keeps_latent:
            for t in self.targets:
                t.parameter.copy_(self._latent(t))
        elif self.rule.gradient_at is Point.LATENT and self.rule.starts_from is Point.QUANTIZED:
            self._quantize_parameters(rho)
        loss = self.base.step(closure)
        self.step_count += 1
        rho = self._rho(self.step_count)
        reestimate = self.step_count % self.scale_every == 0 and self.schedule(self.step_count) < math.inf
        for t in self.targets:
            if t.estimate_scale and reestimate:
                t.scale.copy_(nearest_scale(t.parameter, t.levels, t.scale.shape[0] > 1, rounds=1))
            top = t.levels.values[-1] * self.clamp * t.scale
            t.parameter.copy_(torch.maximum(torch.minimum(t.parameter, top), -top))
            if self._keeps_latent:
                self._latent(t).copy_(t.parameter)
        if self.rule.gradient_at is Point.QUANTIZED:
            self._quantize_parameters(rho)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.base.zero_grad(set_to_none)

    @contextmanager
    def projected(self) -> Iterator[None]:
        """Within the block the targets are exactly in their level sets; afterwards they are as before."""
        before = [t.parameter.detach().clone() for t in self.targets]
        self.project()
        try:
            yield
        finally:
            with torch.no_grad():
                for t, w in zip(self.targets, before, strict=True):
                    t.parameter.copy_(w)

    @torch.no_grad()
    def project(self) -> None:
        """Project the latent weights for good: every target's parameter is exactly in its level set."""
        for t in self.targets:
            t.parameter.copy_(projector(self._latent(t), t.levels, t.scale))

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, with the latent weights, and the step count."""
        return {**self.base.state_dict(), "step_count": self.step_count, "latent": list(self.latent.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        rest = dict(state_dict)
        self.step_count = int(rest.pop("step_count", self.step_count))
        for kept, value in zip(self.latent.values(), rest.pop("latent", []), strict=True):
            kept.copy_(value)
        self.base.load_state_dict(rest)

    def __repr__(self) -> str:
        """Name the rule and the wrapped optimizer."""
        return f"ProxOptimizer({self.rule.name}, {len(self.targets)} targets, {self.base!r})"
