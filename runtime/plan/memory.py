"""Where every value of a plan lies in the arena, the memory of one image.

The order of steps decides how long a value lives: a place is taken when a step writes it and given back after the last step
that reads it. The arena begins with a row of zeros, which stands in for a missing residual, and a scratch part a thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bitplane.format.limits import MAX_MEMORY
from bitplane.runtime.errors import ModelError
from bitplane.runtime.instructions import Scratch
from bitplane.runtime.kernels.shapes import SCRATCH_BYTES, tiles_for
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.layouts import CodesLayout, FeaturesLayout, Layout, pad_channels, round_up
from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.gemm import CLASSES
from bitplane.runtime.operators.max_pool import MaxPool
from bitplane.runtime.plan.arena import Arena
from bitplane.runtime.plan.fuse import Step
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.stage import Staged
from bitplane.runtime.process import memory_limit

BAND_BYTES = 192 << 10
"""Bytes of features that a convolution leaves to a max pool at a time: a part of an L2 cache."""
OVERREAD = 8
"""Bytes behind the image that a byte product may read: it takes whole words, also of the last pixels."""


@dataclass(frozen=True)
class Buffer:
    """A part of the arena and when it is in use.

    Attributes:
        name: of the tensor, or what it is for.
        at: first byte.
        size: bytes.
        first: the step that writes it first; -1 where it is filled when the arena is made.
        last: the last step that uses it.
        replaces: name of the buffer whose memory the step `first` overwrites while it reads it, or "".
    """

    name: str
    at: int
    size: int
    first: int
    last: int
    replaces: str = ""


@dataclass(frozen=True)
class Band:
    """A convolution that runs with the max pool after it.

    Attributes:
        features: layout of what the convolution makes, as if it were whole.
        at: where the rows lie that are kept.
        pool_rows: rows of the pool that run at a time; 0 where all features are kept.
        rows: rows of the convolution that a thread keeps then.
    """

    features: FeaturesLayout
    at: int
    pool_rows: int
    rows: int


@dataclass(frozen=True)
class Memory:
    """The places of a plan.

    Attributes:
        arena: recipe of the memory of one image.
        codes: layout and arena offset of codes, and of copies inside a halo, by name.
        features: layout and arena offset of stored features.
        bands: of convolutions that run with their pool, by the name of what they make.
        zeros: offset of a row of zeros.
        scratch: the threads' scratch parts.
        buffers: every part of the arena.
    """

    arena: Arena
    codes: dict[str, tuple[CodesLayout, int]]
    features: dict[str, tuple[FeaturesLayout, int]]
    bands: dict[str, Band]
    zeros: int
    scratch: Scratch
    buffers: tuple[Buffer, ...]


@dataclass
class _Layout:
    """The arena as it is laid out, step by step."""

    layouts: Mapping[str, Layout]
    copies: Mapping[str, Staged]
    threads: int
    arena: Arena
    codes: dict[str, tuple[CodesLayout, int]] = field(default_factory=dict[str, tuple[CodesLayout, int]])
    features: dict[str, tuple[FeaturesLayout, int]] = field(default_factory=dict[str, tuple[FeaturesLayout, int]])
    bands: dict[str, Band] = field(default_factory=dict[str, Band])
    buffers: dict[str, Buffer] = field(default_factory=dict[str, Buffer])

    def take(self, name: str, step: int) -> None:
        """Give a tensor a place, if it is one that lies in the arena."""
        copy = self.copies.get(name)
        layout = self.layouts.get(name) if copy is None else copy.layout
        if copy is not None and copy.is_pixels:
            at = self.arena.reserve(copy.layout.size + OVERREAD)
            self.arena.fills.append((at, copy.layout.size, copy.fill))
            self.codes[name] = copy.layout, at
            self.buffers[name] = Buffer(name, at, copy.layout.size + OVERREAD, step, 1 << 62)
        elif isinstance(layout, CodesLayout):
            self.codes[name] = layout, self.arena.take_codes(layout)
            self.buffers[name] = Buffer(name, self.codes[name][1], layout.size, step, step)
        elif isinstance(layout, FeaturesLayout):
            self.features[name] = layout, self.arena.take_features(layout)
            self.buffers[name] = Buffer(name, self.features[name][1], layout.size, step, step)

    def take_over(self, name: str, source: str, step: int) -> None:
        """Give a tensor the place of another one, which dies as it is written."""
        layout, at = self.features[name] = self.features[source]
        self.buffers[name] = Buffer(name, at, layout.size, step, step, source)
        self.buffers[source] = replace(self.buffers[source], last=step)

    def give(self, name: str, step: int) -> None:
        """Let others have a tensor's place."""
        if name in self.copies and self.copies[name].is_pixels:
            return  # its halo holds a value of its own
        if name in self.codes:
            self.arena.give_codes(*self.codes[name])
        elif name in self.features:
            self.arena.give_features(*self.features[name])
        if name in self.buffers:
            self.buffers[name] = replace(self.buffers[name], last=step)

    def take_band(self, name: str, pool: MaxPool, step: int) -> FeaturesLayout:
        """A place for what a convolution leaves to its pool: bands of rows, where that takes less than the features."""
        whole = self.layouts[name]
        assert isinstance(whole, FeaturesLayout)
        stride, size = pool.strides[0], pool.kernel[0]
        pool_rows = max(1, (BAND_BYTES // whole.row - size) // stride + 1)
        rows = (pool_rows - 1) * stride + size
        is_banded = rows * self.threads < whole.height
        kept = replace(whole, height=rows * self.threads) if is_banded else whole
        at = self.arena.take_features(kept)
        self.bands[name] = Band(whole, at, pool_rows if is_banded else 0, rows if is_banded else 0)
        self.buffers[name] = Buffer(name, at, kept.size, step, step)
        return kept


def place(
    model: Model, steps: Sequence[Step], layouts: Mapping[str, Layout], copies: Mapping[str, Staged], options: PlanOptions
) -> Memory:
    """Give every value that a step stores its place.

    Args:
        model: a checked model.
        steps: from `stage`.
        layouts: of tensors, from `choose`.
        copies: from `stage`.
        options: of the plan.

    Raises:
        ModelError: the values need more memory than a plan, or this process, may have.
    """
    arena = Arena(options.reuse)
    widest = max(pad_channels(t.shape[0]) for t in model.tensors.values())
    zeros = arena.reserve(widest * 4)
    part = round_up(_scratch_bytes(model, options.cpu))
    scratch = Scratch(arena.reserve(options.threads * part), part)
    layout, limit = _Layout(layouts, copies, options.threads, arena), memory_limit()
    layout.buffers[ZEROS] = Buffer(ZEROS, zeros, widest * 4, -1, len(steps))
    layout.buffers[SCRATCH] = Buffer(SCRATCH, scratch.scratch, options.threads * part, -1, len(steps))
    for name in options.inputs:
        layout.take(name, -1)
    last = {name: i for i, step in enumerate(steps) for name in step.reads}
    for i, step in enumerate(steps):
        _place_step(layout, step, i, last, options.reuse)
        check_size(model.label, arena.size, 0, options.threads, limit)
    buffers = tuple(replace(b, last=min(b.last, len(steps))) for b in layout.buffers.values())
    return Memory(arena, layout.codes, layout.features, layout.bands, zeros, scratch, buffers)


ZEROS, SCRATCH = "\0zeros", "\0scratch"
"""Names of buffers that are no tensors."""


def _place_step(layout: _Layout, step: Step, i: int, last: Mapping[str, int], reuse: bool) -> None:
    dying = {name for name in (*step.reads, *step.writes) if last.get(name, i) <= i}
    for name in step.writes:
        takes_over = name == step.stored and step.residual in dying and step.residual != step.source
        if takes_over and step.residual is not None and reuse:
            # Each vector of the residual is read just before its sum is written: half the memory traffic.
            layout.take_over(name, step.residual, i)
            dying.discard(step.residual)
        else:
            layout.take(name, i)
    if step.pool is not None and step.stored is not None and isinstance(step.pool.head, MaxPool):
        kept = layout.take_band(step.stored, step.pool.head, i)
        layout.arena.give_features(kept, layout.bands[step.stored].at)
    for name in sorted(dying):
        layout.give(name, i)


def check_size(label: str, values: int, constants: int, threads: int, limit: int) -> None:
    """Refuse a plan that no machine, or not this one, has memory for.

    Raises:
        ModelError: that is so.
    """
    if values + constants > MAX_MEMORY:
        raise ModelError(
            f"{label}: needs {values} bytes for values and {constants} for constants,"
            f" more than {MAX_MEMORY} together; use smaller images"
        )
    if threads * values + constants > limit:
        raise ModelError(
            f"{label}: needs {values} bytes for values of each of {threads} threads and {constants} for"
            f" constants, this process can have {limit}; use smaller images or fewer threads"
        )


def _scratch_bytes(model: Model, cpu: Cpu) -> int:
    widths = [t.shape[2] for t in model.tensors.values()]
    channels = [(pad_channels(t.shape[0]) + CLASSES) * 4 for t in model.tensors.values()]
    pooled = [model.tensors[m.output] for m in model.nodes if isinstance(m, MaxPool)]
    rows = [pad_channels(t.shape[0]) * t.shape[2] * 4 for t in pooled]
    return max(SCRATCH_BYTES, max(widths) * max(t.group for t in tiles_for(cpu)) * 4, *channels, *rows)
