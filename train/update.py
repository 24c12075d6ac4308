"""What happens to the low-bit weights around a step of any optimizer: the rules of the ProxConnect family.

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
update starts from w*, w* is the group's `latent` (dtype, shape and layout of the parameter), a view of one flat buffer for
each level set (`bitplane.train.latents`); elsewhere the parameter is all there is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from bitplane.train.latents import LatentGroup, Target
from bitplane.train.methods import Method, Point, Quantizer, RandomQuantizer
from bitplane.train.quantizers import projector


@dataclass(frozen=True)
class UpdateOptions:
    """How low-bit weights move.

    Attributes:
        method: rule, quantizer and backward map.
        schedule: sharpness of the quantizer as a function of the gradient step; infinite in the hard stage.
        clamp: latent weights are kept within clamp * scale * [q_1, q_b] after each step; inf to leave them alone.
        scale_every: gradient steps between two least-squares estimates of the scales.
        average_from: step from which the iterates w are averaged (Corollary 4.2 of the paper), weighted by the learning rate;
            the final weights are then the projection of that average. None: the last iterate.
        seed: of random quantizers; with the step it determines what they draw, on any device and in any process.
    """

    method: Method
    schedule: Callable[[int], float]
    clamp: float = 1.0
    scale_every: int = 10
    average_from: int | None = None
    seed: int = 0


class Update:
    """The low-bit weights of a model, and what a step does to them before and after the wrapped optimizer's.

    Args:
        targets: the low-bit parameters.
        options: how they move.
    """

    def __init__(self, targets: Sequence[Target], options: UpdateOptions) -> None:
        self.targets = list(targets)
        self.options = options
        self.method, self.schedule = options.method, options.schedule
        self.step_count = 0
        self.average_weight = 0.0
        self._seen: tuple[Any, ...] = ()
        self._restored = False
        self.groups = self._grouped()
        with torch.no_grad():
            if self.method.rule.gradient_at is Point.QUANTIZED:
                self._push_quantized(self.schedule(0))
        self._look()

    def _grouped(self) -> list[LatentGroup]:
        by_kind: dict[Any, list[Target]] = {}
        for t in self.targets:
            clamp = self.options.clamp if t.clamp is None else t.clamp
            kind = t.levels, t.parameter.dtype, t.parameter.device, clamp if self.method.clamped else math.inf
            by_kind.setdefault(kind, []).append(t)
        averaged = self.options.average_from is not None
        with torch.no_grad():
            return [LatentGroup(targets, kind[3], averaged) for kind, targets in by_kind.items()]

    @property
    def keeps_latent(self) -> bool:
        """Whether latents are kept beside the parameters."""
        rule = self.method.rule
        return rule.gradient_at is Point.QUANTIZED and rule.starts_from is Point.LATENT

    @property
    def latent(self) -> dict[Tensor, Tensor]:
        """The latent weights of each target, where they are kept; views that may be written."""
        if not self.keeps_latent:
            return {}
        return {p: v for g in self.groups for p, v in zip(g.parameters, g.latents, strict=True)}

    @property
    def average(self) -> dict[Tensor, Tensor]:
        """The mean of the iterates of each target, where it is kept; views that may be written."""
        return {
            p: v for g in self.groups if g.average is not None for p, v in zip(g.parameters, g.views(g.average), strict=True)
        }

    @torch.no_grad()
    def before(self) -> float:
        """From the gradients at the rule's point to the start of the wrapped optimizer's step.

        Returns:
            The sharpness of this step.
        """
        self._follow()
        rule, sharpness = self.method.rule, self.schedule(self.step_count)
        for i, g in enumerate(self.groups):
            if not self.keeps_latent:
                g.pull()
            self.map_gradients(g, sharpness)
            if self.keeps_latent:
                g.push(g.latent)
            elif rule.gradient_at is Point.LATENT and rule.starts_from is Point.QUANTIZED:
                g.push(self.quantized(g, sharpness, i))
        return sharpness

    @torch.no_grad()
    def after(self, rate: Callable[[], float]) -> None:
        """After the wrapped optimizer's step: limit the latents, move the scales, and put the parameters where they rest.

        Args:
            rate: gives the learning rate, the weight of this iterate in the average; called where one is kept.
        """
        self.step_count += 1
        sharpness = self.schedule(self.step_count)
        # A least-squares scale rests when the quantizer is hard, unless it always was.
        soft = self.method.form == "hard" or sharpness < math.inf
        for i, g in enumerate(self.groups):
            g.pull()
            g.limit()
            self.move_scales(g, least_squares=soft and self.step_count % self.options.scale_every == 0)
            values = self.quantized(g, sharpness, i) if self.method.rule.gradient_at is Point.QUANTIZED else g.latent
            g.push(values)
            if g.average is not None and self._averaging:
                total = self.average_weight + rate()
                g.average.lerp_(values, rate() / total if total > 0 else 1.0)
        if self._averaging:
            self.average_weight += rate()
        self._look()

    def pass_over(self) -> None:
        """A step that moved nothing."""
        self.step_count += 1
        self._look()

    def quantized(self, g: LatentGroup, sharpness: float, index: int) -> Tensor:
        """The weights w of a group, the `index`-th, from its latents: flat, and overwritten by the next call."""
        if math.isinf(sharpness):
            return g.quantized(lambda unit: projector(unit, g.levels))
        if not self.method.random:
            return g.quantized(lambda unit: cast(Quantizer, self.method.quantizer)(unit, g.levels, sharpness))
        generator = torch.Generator().manual_seed((self.options.seed * 1_000_003 + self.step_count) * 31 + index)
        draw = cast(RandomQuantizer, self.method.quantizer)
        return g.quantized(lambda unit: draw(unit, g.levels, sharpness, generator), whole=True)

    def map_gradients(self, g: LatentGroup, sharpness: float) -> None:
        """From the gradients at the parameters, whose latents `g` holds: those of learned scales, and the backward map's."""
        g.scale_gradients()
        if self.method.backward is not None:
            factor = self.method.backward(g.units(), g.levels, sharpness)
            for p, f in zip(g.parameters, g.views(factor), strict=True):
                if p.grad is not None:
                    p.grad.mul_(f)

    def move_scales(self, g: LatentGroup, least_squares: bool) -> None:
        """Move the scales to where the latents of `g`, or the wrapped optimizer, have brought them."""
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

    @torch.no_grad()
    def project(self) -> None:
        """Every target's parameter exactly in its level set (times its scale); latents stay as they are."""
        self._follow()
        for g in self.groups:
            if not self.keeps_latent:
                g.pull()
            kept = g.latent.clone()
            if g.average is not None and self.average_weight > 0:
                g.latent.copy_(g.average)
            g.push(self.quantized(g, math.inf, 0))
            g.latent.copy_(kept)
        self._look()

    def restore(self, step_count: int, average_weight: float) -> None:
        """Latents and averages have been restored: they count from now on, whatever the parameters are."""
        self.step_count, self.average_weight, self._restored = step_count, average_weight, True

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute what follows from restored latents and scales: thresholds, and w where it is not the state itself."""
        self.show_latents()
        self._restored = False

    @torch.no_grad()
    def show_latents(self) -> None:
        """Put the parameters where the latents and the present scales say; what is restored goes on to count."""
        for g in self.groups:
            if not self.keeps_latent:
                g.pull()
            g.decide()
            g.expand()
        if self.keeps_latent:
            self._push_quantized(self.schedule(self.step_count))
        self._look()

    def _push_quantized(self, sharpness: float) -> None:
        for i, g in enumerate(self.groups):
            g.push(self.quantized(g, sharpness, i))

    def _look(self) -> None:
        self._seen = self._versions()

    def _versions(self) -> tuple[Any, ...]:
        tensors = [t for target in self.targets for t in (target.parameter, target.scale)]
        return tuple((t.data_ptr(), t._version) for t in tensors)

    def _follow(self) -> None:
        """Follow parameters and scales that somebody else has moved to a device, or given other values.

        Of parameters that are no longer what the last step left there, the values are taken as latents: so that weights which
        are loaded into the model count. Restored latents count more.
        """
        if not self._restored and self._versions() == self._seen:
            return
        if any(t.parameter.device != g.latent.device for g in self.groups for t in g.targets):
            self._move()
        for i, g in enumerate(self.groups):
            if not self.keeps_latent:
                g.pull()
            g.decide()
            g.expand()
            if self.keeps_latent and not self._restored:
                expected = g.views(self.quantized(g, self.schedule(self.step_count), i))
                for p, latent, value in zip(g.parameters, g.latents, expected, strict=True):
                    if not torch.equal(p, value):
                        latent.copy_(p)
        self._restored = False

    def _move(self) -> None:
        """Make the buffers anew where the parameters are now."""
        latent, average = self.latent, self.average
        self.groups = self._grouped()
        for kept, new in ((latent, self.latent), (average, self.average)):
            for p, value in kept.items():
                new[p].copy_(value)

    @property
    def _averaging(self) -> bool:
        return self.options.average_from is not None and self.step_count > self.options.average_from
