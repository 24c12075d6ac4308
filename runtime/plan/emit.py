"""Steps to instructions: where each reads and writes, its constants, and what runs it in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitplane.runtime.instructions import (
    Convolve,
    Elementwise,
    Epilogue,
    Image,
    Instruction,
    Interleave,
    MaxPool,
    Results,
)
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.layouts import BLOCK, FeaturesLayout, pad_channels
from bitplane.runtime.operators import max_pool
from bitplane.runtime.operators.base import Convolution, Standalone
from bitplane.runtime.operators.flatten import Output
from bitplane.runtime.plan.convolve import Kernel, convolve
from bitplane.runtime.plan.emission import Emission
from bitplane.runtime.plan.epilogue import describe_epilogue, make_epilogue
from bitplane.runtime.plan.fuse import Step
from bitplane.runtime.plan.stage import Staged


@dataclass(frozen=True, eq=False)
class Emitted:
    """An instruction with the node it is of.

    Attributes:
        name: of the step's first node.
        kernel: what runs it.
        instruction: the instruction.
        step: index of the step it belongs to.
        is_layer: whether it is a node of the model; else a copy that planning added.
    """

    name: str
    kernel: Kernel
    instruction: Instruction
    step: int
    is_layer: bool = True


def emit(e: Emission, steps: Sequence[Step]) -> list[Emitted]:
    """The instructions of the steps, in order.

    Args:
        e: where values lie; constants are added to it.
        steps: from `stage`.
    """
    out: list[Emitted] = []
    for number, step in enumerate(steps):
        head = step.head
        if isinstance(head, Staged):
            out.append(Emitted(head.name, Kernel(head.kernel()), _copy(e, head), number, is_layer=False))
        elif isinstance(head, Convolution):
            instruction, kernel = convolve(e, step)
            out.append(Emitted(head.name, kernel, instruction, number))
            if step.pool is not None:
                out.append(_pool(e, step.pool, number, step, instruction))
        elif isinstance(head, max_pool.MaxPool):
            out.append(_pool(e, step, number))
        elif isinstance(head, Standalone):
            kernel = Kernel(head.kernel())
            out.append(Emitted(head.name, kernel, head.instruction(e), number, is_layer=not isinstance(head, Output)))
        else:
            kernel = Kernel(f"elementwise{describe_epilogue(step)}")
            out.append(Emitted(head.name, kernel, _elementwise(e, step), number))
    return out


def _copy(e: Emission, copy: Staged) -> Interleave | Elementwise:
    layout, at = e.codes(copy.output)
    if copy.is_pixels:
        channels = e.channels(copy.source)
        return Interleave(layout.height, layout.width, channels, at + layout.at(0, 0), layout.row)
    epilogue = Epilogue(
        Results(f.FROM_FEATURES),
        residual=e.memory.zeros,
        store=1,
        features=at + layout.at(0, 0),
        features_row=layout.row,
        features_pixel=layout.pixel,
    )
    return _read_elementwise(*e.features(copy.source), epilogue)


def _elementwise(e: Emission, step: Step) -> Elementwise:
    return _read_elementwise(*e.features(step.source), make_epilogue(e, step, Results(f.FROM_FEATURES)))


def _read_elementwise(layout: FeaturesLayout, at: int, epilogue: Epilogue) -> Elementwise:
    vectors = layout.channels // BLOCK
    return Elementwise(at, layout.row, layout.pixel, vectors, 1, layout.height, layout.width, epilogue)


def _pool(e: Emission, step: Step, number: int, before: Step | None = None, made: Convolve | None = None) -> Emitted:
    """A max pool by itself, or of what the convolution `made` of the step `before` leaves it."""
    node = step.head
    assert isinstance(node, max_pool.MaxPool)
    c, height, width = e.model.tensors[node.output].shape
    results, activation, band = Results(f.FROM_FEATURES), None, None
    if before is None or made is None or before.stored is None:
        source, at = e.features(step.source)
    else:
        band = e.memory.bands[before.stored]
        source, at = band.features, band.at
        if made.mode == f.MODE_POOL:  # the largest accumulator first, then the convolution's epilogue
            results, activation = made.epilogue.results, made.epilogue.activation
    is_banded = band is not None and band.pool_rows > 0
    instruction = MaxPool(
        image=Image(at, source.row, source.pixel, source.height, source.width),
        height=height,
        width=width,
        channels=pad_channels(c),
        vectors=pad_channels(c) // BLOCK,
        groups=1,
        kernel_rows=node.kernel[0],
        kernel_width=node.kernel[1],
        stride_y=node.strides[0],
        stride_x=node.strides[1],
        pad_top=node.pads[0],
        pad_left=node.pads[1],
        scratch=e.scratch,
        epilogue=make_epilogue(e, step, results, activation),
        band=-1 if is_banded else 0,
        band_rows=band.rows if band is not None else 0,
    )
    return Emitted(node.name, Kernel(f"max pool{describe_epilogue(step)}"), instruction, number)
