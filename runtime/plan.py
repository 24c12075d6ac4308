"""Steps to a table: gives every value its place in the arena, and every step its row.

The order of steps decides how long a value lives: a place is taken when a step writes it and given back after the last that
reads it. `bitplane.runtime.places` knows where values lie, `bitplane.runtime.rows` what a row says.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.arena import Arena, CodesLayout, FeaturesLayout
from bitplane.runtime.cost import Estimate
from bitplane.runtime.errors import ModelError
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.target import MACHINE, Cpu
from bitplane.runtime.lower import lower
from bitplane.runtime.model import FloatConv, Model
from bitplane.runtime.places import Places
from bitplane.runtime.rows import Rows


@dataclass(frozen=True)
class Plan:
    """A model ready to run.

    Attributes:
        table: int64 [steps, FIELDS].
        constants: uint8, aligned; the table's constant offsets point into it.
        arena: recipe of the arena each thread needs.
        codes: layout and arena offset of every tensor of codes.
        features: layout and arena offset of every stored tensor of features.
        kernels: (layer name, what runs it), in order.
        steps: (name, what runs it) of every row of the table.
        estimates: layer name to what its convolution would cost by each product.
    """

    table: NDArray[np.int64]
    constants: NDArray[np.uint8]
    arena: Arena
    codes: dict[str, tuple[CodesLayout, int]]
    features: dict[str, tuple[FeaturesLayout, int]]
    kernels: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, str], ...]
    estimates: dict[str, Estimate]


def make_plan(
    model: Model,
    threads: int = 1,
    merge: bool = True,
    reuse: bool = True,
    inputs: tuple[str, ...] = (),
    cpu: Cpu = MACHINE,
) -> Plan:
    """Plan a model.

    Args:
        model: a checked model.
        threads: threads that may share one image; each gets its own scratch row.
        merge: whether nodes are merged into steps (False only for tracing).
        reuse: whether values share memory (False only for tracing).
        inputs: tensors that no node makes and the caller fills in the arena (for a layer by itself).
        cpu: the processor; a plan for another one than this can be looked at, not run.
    """
    try:
        return _plan(model, threads, merge, reuse, inputs, cpu)
    except MemoryError:
        raise ModelError(f"{model.label}: its weights need more memory than this process can have") from None


def _plan(model: Model, threads: int, merge: bool, reuse: bool, inputs: tuple[str, ...], cpu: Cpu) -> Plan:
    places = Places(model, threads, reuse, cpu)
    rows = Rows(places)
    for name in inputs:
        places.take(name)
    steps = lower(model, merge)
    last = {name: i for i, step in enumerate(steps) for name in step.reads}
    for i, step in enumerate(steps):
        dying = {name for name in (*step.reads, *step.writes) if last.get(name, i) <= i}
        for name in step.writes:
            in_place = not (isinstance(step.head, FloatConv) and step.head.source == step.residual)
            if name == step.stored and step.residual in dying and reuse and in_place:
                # Each vector of the residual is read just before its sum is written: half the memory traffic.
                places.features[name] = places.features[step.residual]
                dying.discard(step.residual)
            else:
                places.take(name)
        rows.add(step)
        places.check_size()
        for name in sorted(dying):
            places.give(name)
    constants, kernels = places.constants.bytes(), dict(rows.kernels)
    names = tuple((name, kernel or kernels.get(name, "copy")) for name, kernel in rows.names)
    table = np.stack(rows.rows)
    table[:, f.SCRATCH_PART] = places.scratch_part
    return Plan(table, constants, places.arena, places.codes, places.features, tuple(rows.kernels), names, places.estimates)
