"""The low-bit weights of one level set in flat buffers, so that quantizing a network is a few large operations.

All buffers are [n] of the parameters' dtype, n the weights of the group's targets together; `views(buffer)` are its pieces in
the shape and memory layout of the parameters. Owner: `Update`.

    latent     w*, or scratch where the rule keeps no latents
    scale      factor of the levels, expanded from the targets' scales; a second one for negative levels where they differ
    decision   unit in which latents are compared with midpoints: the scale, or twice the threshold of a ternary method
    value      what `quantized` made last
    average    mean of the iterates, if asked for

On a CPU the buffers are worked on in pieces that fit the L2 cache: of a ResNet-18 that is several times as fast, as each
operation on whole buffers would go through memory, most of it fresh. On other devices one piece is the fastest.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitplane.format.levels import LevelSet
from bitplane.train.config import ScaleOption
from bitplane.train.quantizers.scale import ScaleFit, mean_above, nearest_scale, ternary_threshold

PIECE = 1 << 16
"""Elements of a buffer that are worked on at a time on a CPU: with their temporaries they stay in an L2 cache of 1 MB."""


@dataclass(frozen=True)
class Target:
    """A low-bit parameter: the tensor the model sees, its level set, and the factor of that set.

    Attributes:
        parameter: float32 [O, ...].
        levels: its level set.
        scale: float32 [O, 1, ...] (one a channel), [1, 1, ...] (one a layer), or [2, 1, ...] (positive and negative levels
            apart), the model's own buffer, updated in place.
        option: which of these it is; "none" is one factor that stays 1.
        fit: how `scale` moves: "fixed"; "least-squares", re-estimated from the latents until the hard stage; "learned" by the
            wrapped optimizer; "twn", least squares for TWN's threshold; "ttq", learned for TTQ's threshold.
        clamp: multiple of the outermost levels within which its latents stay, if it has one of its own.
    """

    parameter: Tensor
    levels: LevelSet
    scale: Tensor
    option: ScaleOption = "none"
    fit: ScaleFit = "fixed"
    clamp: float | None = None

    @property
    def learned(self) -> bool:
        """Whether the wrapped optimizer moves the scale."""
        return self.option != "none" and self.fit in ("learned", "ttq")


class LatentGroup:
    """Targets of one level set over flat buffers.

    Args:
        targets: at least one, all of one level set.
        clamp: latents are kept within this multiple of the outermost levels.
        averaged: keep the mean of the iterates.
    """

    def __init__(self, targets: Sequence[Target], clamp: float, averaged: bool) -> None:
        self.targets = list(targets)
        self.parameters = [t.parameter for t in targets]
        self.levels = targets[0].levels
        self.clamp = clamp
        first = targets[0].parameter
        count = sum(p.numel() for p in self.parameters)
        dtype = first.dtype

        def new() -> Tensor:
            return torch.zeros(count, dtype=dtype, device=first.device)

        self.latent, self.scale, self.decision, self.value = new(), new(), new(), new()
        self.negative = new() if any(t.option == "two-sided" for t in targets) else None
        self.average = new() if averaged else None
        self._make_views()
        self.pull()
        self.decide()
        self.expand()

    def _make_views(self) -> None:
        self.latents, self.scales, self.decisions = (self.views(b) for b in (self.latent, self.scale, self.decision))

    def __getstate__(self) -> dict[str, Any]:
        """All but the views, which would no longer be views."""
        return {k: v for k, v in vars(self).items() if k not in ("latents", "scales", "decisions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`."""
        vars(self).update(state)
        self._make_views()

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The pieces of a flat buffer in the parameters' shapes and strides."""
        views, at = [], 0
        for p in self.parameters:
            dense = p.is_contiguous() or (p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last))
            strides = p.stride() if dense else torch.empty_like(p, memory_format=torch.contiguous_format).stride()
            views.append(buffer[at : at + p.numel()].as_strided(p.shape, strides, at))
            at += p.numel()
        return views

    def pull(self) -> None:
        """Latents <- parameters."""
        torch._foreach_copy_(self.latents, self.parameters)  # pyright: ignore[reportPrivateImportUsage]

    def push(self, values: Tensor) -> None:
        """Parameters <- a flat buffer."""
        torch._foreach_copy_(self.parameters, self.views(values))  # pyright: ignore[reportPrivateImportUsage]

    def limit(self) -> None:
        """Clamp the latents to `clamp` times the outermost levels."""
        if math.isinf(self.clamp):
            return
        for latent, decision in self._pieces(self.latent, self.decision):
            top = decision * (self.levels.values[-1] * self.clamp)
            torch.minimum(latent, top, out=latent)
            torch.maximum(latent, top.neg_(), out=latent)

    def _pieces(self, *buffers: Tensor) -> Iterator[tuple[Tensor, ...]]:
        size = PIECE if self.latent.device.type == "cpu" else max(1, len(self.latent))
        return zip(*(b.split(size) for b in buffers), strict=True)

    def estimate(self, least_squares: bool) -> None:
        """Re-estimate scales from the latents: those of "twn", and on request those of "least-squares"."""
        for t, w in zip(self.targets, self.latents, strict=True):
            if least_squares and t.fit == "least-squares" and t.option != "none":
                t.scale.copy_(nearest_scale(w, self.levels, t.option == "channel", rounds=1))
            elif t.fit == "twn":
                t.scale.copy_(mean_above(w, ternary_threshold(w, t.option == "channel", "twn")))

    def decide(self) -> None:
        """Recompute the units in which latents are compared with midpoints, from the scales and latents."""
        for t, w, view in zip(self.targets, self.latents, self.decisions, strict=True):
            view.copy_(2 * ternary_threshold(w, t.option == "channel", t.fit) if t.fit in ("twn", "ttq") else t.scale)

    def expand(self) -> None:
        """Copy the targets' scales into the flat ones."""
        for t, view in zip(self.targets, self.scales, strict=True):
            view.copy_(t.scale[:1] if t.option == "two-sided" else t.scale)
        if self.negative is not None:
            for t, view in zip(self.targets, self.views(self.negative), strict=True):
                view.copy_(t.scale[1:] if t.option == "two-sided" else t.scale)

    def units(self) -> Tensor:
        """The latents in units of the level set, a new flat tensor."""
        return self.latent / self.decision

    def quantized(self, quantizer: Callable[[Tensor], Tensor], *, whole: bool = False) -> Tensor:
        """W from the latents, a flat tensor that the next call overwrites.

        Args:
            quantizer: element by element, latents in units of the level set to levels or what lies between them.
            whole: give it all latents at once.
        """
        buffers = self.latent, self.decision, self.scale, self.scale if self.negative is None else self.negative, self.value
        for latent, decision, scale, negative, value in [buffers] if whole else self._pieces(*buffers):
            codes = quantizer(latent / decision)
            factor = scale if self.negative is None else torch.where(codes < 0, negative, scale)
            torch.mul(codes, factor, out=value)
        return self.value

    def scale_gradients(self) -> None:
        """Set the gradients of learned scales from those of the weights, which must now be codes * scale.

        d loss / d scale = sum over its weights of gradient * code, divided by sqrt(weights * top level) as in LSQ (Esser et
        al., ICLR 2020, section 2.2).
        """
        for t in self.targets:
            if t.learned and t.parameter.grad is not None:
                g, w = t.parameter.grad, t.parameter
                dims = tuple(range(1 if t.option == "channel" else 0, w.dim()))
                if t.option == "two-sided":
                    parts = [(g * w * (w * s > 0)).sum(dims, keepdim=True) for s in (1, -1)]
                    total = torch.cat(parts) / t.scale
                else:
                    total = (g * w).sum(dims, keepdim=True) / t.scale
                count = w.numel() / (w.shape[0] if t.option == "channel" else 1)
                t.scale.grad = total / (count * self.levels.values[-1]) ** 0.5
