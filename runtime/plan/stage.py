"""What must be copied before a convolution can read it: pixels channels-last, and features that are padded, inside a halo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitplane.runtime.layouts import CodesLayout, FeaturesLayout, haloed_features, pad_channels, pixels_layout
from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.base import Node
from bitplane.runtime.operators.float_conv import FloatConv
from bitplane.runtime.operators.pixel_conv import PixelConv
from bitplane.runtime.plan.fuse import Step


@dataclass(frozen=True, eq=False)
class Staged(Node):
    """A copy of `source` inside a halo.

    Attributes:
        layout: of the copy.
        fill: value of the bytes of the halo.
        is_pixels: whether it is the image, channels-last; else features.
    """

    layout: CodesLayout
    fill: int
    is_pixels: bool

    def kernel(self) -> str:
        """What runs it, for people."""
        return "interleave channels" if self.is_pixels else "copy into a halo"


def stage(model: Model, steps: Sequence[Step]) -> tuple[list[Step], dict[str, Staged]]:
    """Put a step in front of each convolution that reads a copy.

    Args:
        model: a checked model.
        steps: from `fuse`.

    Returns:
        The steps, and every copy by its name.
    """
    out: list[Step] = []
    copies: dict[str, Staged] = {}
    for step in steps:
        copy = _copy(model, step, copies)
        if copy is not None:
            copies[copy.output] = copy
            out.append(Step(copy, copy.source, stored=copy.output))
            step = replace(step, source=copy.output)
        out.append(step)
    return out, copies


def _copy(model: Model, step: Step, copies: dict[str, Staged]) -> Staged | None:
    conv = step.head
    if not isinstance(conv, PixelConv | FloatConv):
        return None
    c, height, width = model.tensors[conv.source].shape
    halo, name = max(conv.pads), f"{conv.name} input"
    while name in model.tensors or name in copies:
        name += "'"
    if isinstance(conv, PixelConv):
        return Staged(conv.source, conv.source, name, pixels_layout(c, height, width, halo), conv.zero_point, True)
    if halo == 0:
        return None
    layout = haloed_features(FeaturesLayout(pad_channels(c), height, width), halo)
    return Staged(f"{conv.name} input", conv.source, name, layout, 0, False)
