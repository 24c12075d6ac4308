"""A plan: a model ready to run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.instructions import Instruction
from bitplane.runtime.layouts import CodesLayout, FeaturesLayout
from bitplane.runtime.plan.arena import Arena
from bitplane.runtime.plan.convolve import Kernel
from bitplane.runtime.plan.cost import Estimate
from bitplane.runtime.plan.memory import Buffer
from bitplane.runtime.plan.options import PlanOptions


@dataclass(frozen=True, eq=False)
class PlannedStep:
    """An instruction of a plan, in words.

    Attributes:
        name: of its first node.
        kernel: what runs it.
        is_layer: whether it is a node of the model; else a copy that planning added.
        step: instructions of the same number belong together.
    """

    name: str
    kernel: Kernel
    is_layer: bool
    step: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A model ready to run.

    Attributes:
        instructions: what the walker does, in order.
        table: the same, encoded: int64 [instructions, FIELDS].
        constants: uint8, aligned; the instructions' constant offsets point into it.
        arena: recipe of the arena each thread needs.
        codes: layout and arena offset of every tensor of codes.
        features: layout and arena offset of every stored tensor of features.
        steps: every instruction in words.
        estimates: layer name to what its convolution would cost by each product.
        buffers: every part of the arena, and the steps that it lives for.
        constant_parts: offset and bytes of every constant.
        image_bytes: of one image.
        logits_bytes: of one image.
        options: what the plan was made for.
    """

    instructions: tuple[Instruction, ...]
    table: NDArray[np.int64]
    constants: NDArray[np.uint8]
    arena: Arena
    codes: dict[str, tuple[CodesLayout, int]]
    features: dict[str, tuple[FeaturesLayout, int]]
    steps: tuple[PlannedStep, ...]
    estimates: dict[str, Estimate]
    buffers: tuple[Buffer, ...]
    constant_parts: tuple[tuple[int, int], ...]
    image_bytes: int
    logits_bytes: int
    options: PlanOptions

    def kernels(self) -> dict[str, Kernel]:
        """What runs each node that heads a step, by its name."""
        return {s.name: s.kernel for s in self.steps if s.is_layer}
