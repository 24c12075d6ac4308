"""The update rules of the ProxConnect family as one optimizer wrapper with two switches.

Every rule keeps latent weights w* and quantized weights w = P(w*); it is named by the point at which the gradient is taken
and the point from which the update starts (Dockhorn et al., NeurIPS 2021):

    rule  eq.    gradient at  starts from
    bc    3      w            w*            P is the projector from the first step
    pc    31     w            w*            P = L_rho^varrho with growing rho
    pq    5      w            w
    rpc   36     w*           w
    ptq   7      w*           w*            P is applied once, at the end

ProxConnect++ (Lu et al., NeurIPS 2023) multiplies the gradient by a backward map of w* before the step. What P is, and how
its sharpness grows, is a method's choice (`bitplane.train.methods`).

What each tensor holds: between steps the model's parameter is the point of the gradient. Where that point is w but the
update starts from w*, w* lives in `ProxOptimizer.latent` (float32, shape and layout of the parameter), a view of one flat
buffer for each level set (`bitplane.train.latents`).
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.errors import TrainingError
from bitplane.train.latents import LatentGroup, Target
from bitplane.train.methods import Method, Point, Quantizer, RandomQuantizer
from bitplane.train.quantizers import projector


class ProxOptimizer(torch.optim.Optimizer):
    """Wrap any optimizer so that the targets' weights move by one of the methods; other parameters move as before.

    `param_groups` and `state` are the wrapped optimizer's own: learning-rate schedulers and Accelerate see one optimizer.

    Args:
        base: the wrapped optimizer; holds all parameters, the targets and their learned scales included.
        targets: the low-bit parameters.
        method: rule, quantizer and backward map.
        schedule: sharpness of the quantizer as a function of the gradient step; infinite in the hard stage.
        clamp: latent weights are kept within clamp * scale * [q_1, q_b] after each step; inf to leave them alone.
        scale_every: gradient steps between two least-squares estimates of the scales.
        average_from: step from which the iterates w are averaged (Corollary 4.2 of the paper), weighted by the learning rate;
            the final weights are then the projection of that average. None: the last iterate.
        seed: of random quantizers; with the step it determines what they draw, on any device and in any process.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        targets: Sequence[Target],
        method: Method,
        schedule: Callable[[int], float],
        *,
        clamp: float = 1.0,
        scale_every: int = 10,
        average_from: int | None = None,
        seed: int = 0,
    ) -> None:
        # Deliberately no super().__init__: groups, state and defaults are the base's own.
        self.base = base
        self.targets = list(targets)
        self.method = method
        self.schedule = schedule
        self.scale_every = scale_every
        self.average_from = average_from
        self.seed = seed
        self.step_count = 0
        self.average_weight = 0.0
        self.defaults = base.defaults
        closure = inspect.signature(base.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        by_levels: dict[LevelSet, list[Target]] = {}
        for t in self.targets:
            by_levels.setdefault(t.levels, []).append(t)
        averaged = average_from is not None
        with torch.no_grad():
            self.groups = [LatentGroup(g, clamp if method.clamped else math.inf, averaged) for g in by_levels.values()]
        # Not in the base's state: Adam takes a non-empty state for one that it has filled itself.
        self.latent: dict[Tensor, Tensor] = {}
        with torch.no_grad():
            for i, g in enumerate(self.groups):
                if self._keeps_latent:
                    self.latent |= dict(zip(g.parameters, g.latents, strict=True))
                if method.rule.gradient_at is Point.QUANTIZED:
                    g.push(self._quantized(g, schedule(0), i))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's state; the latent weights are in `latent`."""
        return self.base.state

    @property
    def average(self) -> dict[Tensor, Tensor]:
        """The mean of the iterates of each target, where it is kept; views that may be written."""
        return {
            p: v for g in self.groups if g.average is not None for p, v in zip(g.parameters, g.views(g.average), strict=True)
        }

    @property
    def _keeps_latent(self) -> bool:
        return self.method.rule.gradient_at is Point.QUANTIZED and self.method.rule.starts_from is Point.LATENT

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute what follows from restored latents and scales: thresholds, and w where it is not the state itself."""
        for i, g in enumerate(self.groups):
            if not self._keeps_latent:
                g.pull()
            g.decide()
            g.expand()
            if self._keeps_latent:
                g.push(self._quantized(g, self.schedule(self.step_count), i))

    def _quantized(self, g: LatentGroup, sharpness: float, index: int) -> Tensor:
        if math.isinf(sharpness):
            return g.scaled(projector(g.units(), g.levels))
        if not self.method.random:
            return g.scaled(cast(Quantizer, self.method.quantizer)(g.units(), g.levels, sharpness))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step_count) * 31 + index)
        return g.scaled(cast(RandomQuantizer, self.method.quantizer)(g.units(), g.levels, sharpness, generator))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update: the gradient at the rule's point, then the wrapped optimizer's step from the rule's start, then w anew.

        `step(closure)` is the closure followed by `step()`, bit for bit.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the loss. It runs before anything
                moves. A wrapped optimizer that needs it (L-BFGS) may evaluate it again, each time at the rule's gradient point
                of the latents that it has reached.

        Returns:
            What the closure returned at first; without a closure, what the wrapped optimizer's step returned.

        Raises:
            TrainingError: the wrapped optimizer needs a closure and there is none; nothing has moved.
        """
        if closure is None and self._needs_closure:
            raise TrainingError(f"{type(self.base).__name__} evaluates the loss several times a step: call `step(closure)`")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rule, sharpness = self.method.rule, self.schedule(self.step_count)
        for i, g in enumerate(self.groups):
            if not self._keeps_latent:
                g.pull()
            self._map_gradients(g, sharpness)
            if self._keeps_latent:
                g.push(g.latent)
            elif rule.gradient_at is Point.LATENT and rule.starts_from is Point.QUANTIZED:
                g.push(self._quantized(g, sharpness, i))
        if closure is None:
            loss = self.base.step()
        elif self._needs_closure:
            self.base.step(self._evaluation(closure, loss, sharpness))
        else:
            self.base.step()
        self.step_count += 1
        self._settle()
        return loss

    def _settle(self) -> None:
        """After the wrapped optimizer's step: limit the latents, move the scales, and put the parameters where they rest."""
        sharpness = self.schedule(self.step_count)
        # A least-squares scale rests when the quantizer is hard, unless it always was.
        soft = self.method.form == "hard" or sharpness < math.inf
        for i, g in enumerate(self.groups):
            g.pull()
            g.limit()
            self._move_scales(g, least_squares=soft and self.step_count % self.scale_every == 0)
            values = self._quantized(g, sharpness, i) if self.method.rule.gradient_at is Point.QUANTIZED else g.latent
            g.push(values)
            self._count(g, values)
        if self._averaging:
            self.average_weight += self._rate

    def _map_gradients(self, g: LatentGroup, sharpness: float) -> None:
        """From the gradients at the parameters, whose latents `g` holds: those of learned scales, and the backward map's."""
        g.scale_gradients()
        if self.method.backward is not None:
            factor = self.method.backward(g.units(), g.levels, sharpness)
            for p, f in zip(g.parameters, g.views(factor), strict=True):
                if p.grad is not None:
                    p.grad.mul_(f)

    def _evaluation(self, closure: Callable[[], Any], loss: Any, sharpness: float) -> Callable[[], Any]:
        """The closure for a base that evaluates it where it likes: its parameters are latents, the gradient is taken at w.

        Args:
            closure: as given to `step`.
            loss: its value at the present gradients, which are those of the base's first evaluation.
            sharpness: of the quantizer in this step.
        """
        everything = [p for group in self.param_groups for p in group["params"]]
        start: list[Tensor] | None = [p.detach().clone() for p in everything]

        def evaluate() -> Any:
            nonlocal start
            first, start = start, None
            if first is not None and all(map(torch.equal, first, everything)):
                return loss
            with torch.no_grad():
                learned = [(t.scale, t.scale.clone()) for t in self.targets if t.learned]
                for i, g in enumerate(self.groups):
                    g.pull()
                    self._move_scales(g, least_squares=False)
                    if self.method.rule.gradient_at is Point.QUANTIZED:
                        g.push(self._quantized(g, sharpness, i))
            with torch.enable_grad():
                value = closure()
            with torch.no_grad():
                for g in self.groups:
                    self._map_gradients(g, sharpness)
                    g.push(g.latent)
                for scale, before in learned:
                    scale.copy_(before)
            return value

        return evaluate

    def _move_scales(self, g: LatentGroup, least_squares: bool) -> None:
        # Thresholds of twn and ttq belong to the latents of the same step; a least-squares scale may lag.
        threshold = any(t.fit in ("twn", "ttq") for t in g.targets)
        learned = any(t.learned for t in g.targets)
        estimated = least_squares and any(t.fit == "least-squares" for t in g.targets)
        for t in g.targets:
            if t.learned:
                t.scale.clamp_(min=1e-8)
        if threshold or estimated:
            g.estimate(estimated)
        if threshold or estimated or learned:
            g.decide()
            g.expand()

    @property
    def _averaging(self) -> bool:
        return self.average_from is not None and self.step_count > self.average_from

    @property
    def _rate(self) -> float:
        return float(self.param_groups[0]["lr"])

    def _count(self, g: LatentGroup, values: Tensor) -> None:
        if g.average is not None and self._averaging:
            total = self.average_weight + self._rate
            g.average.lerp_(values, self._rate / total if total > 0 else 1.0)

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
        """Project for good: every target's parameter is exactly in its level set (times its scale)."""
        for g in self.groups:
            if not self._keeps_latent:
                g.pull()
            kept = g.latent.clone()
            if g.average is not None and self.average_weight > 0:
                g.latent.copy_(g.average)
            g.push(g.scaled(projector(g.units(), g.levels)))
            g.latent.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, with latent weights, averages, and the step count."""
        own = {"step_count": self.step_count, "average_weight": self.average_weight}
        return {**self.base.state_dict(), **own, "latent": list(self.latent.values()), "average": list(self.average.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; call `refresh` once the model's parameters and scales are restored too."""
        rest = dict(state_dict)
        self.step_count = int(rest.pop("step_count", self.step_count))
        self.average_weight = float(rest.pop("average_weight", self.average_weight))
        for mine, name in ((self.latent, "latent"), (self.average, "average")):
            for kept, value in zip(mine.values(), rest.pop(name, []), strict=True):
                kept.copy_(value)
        self.base.load_state_dict(rest)

    def __repr__(self) -> str:
        """Name the targets and the wrapped optimizer."""
        return f"ProxOptimizer({len(self.targets)} targets, {self.base!r})"
