"""`PadShortcut`: the parameter-free shortcut of a ResNet, subsampled and padded with zero channels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.format.limits import MAX_STRIDE
from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class PadShortcut(Standalone):
    """Subsampling by `steps` (y, x), then `front` and `back` zero channels."""

    steps: tuple[int, int]
    front: int
    back: int

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of features."""
        return np.pad(values[0][:, :: self.steps[0], :: self.steps[1]], ((self.front, self.back), (0, 0), (0, 0)))

    def instruction(self, memory: PlanContext) -> instructions.PadShortcut:
        """One instruction."""
        (source, at), (out, out_at) = memory.features(self.source), memory.features(self.output)
        return instructions.PadShortcut(
            height=out.height,
            width=out.width,
            channels=out.channels,
            source=at,
            source_step_y=self.steps[0] * source.row,
            source_step_x=self.steps[1] * source.pixel,
            source_channels=memory.channels(self.source),
            front=self.front,
            features=out_at,
            features_row=out.row,
            features_pixel=out.pixel,
        )

    def kernel(self) -> str:
        """What runs it."""
        return "subsample and pad"


def read(r: Reader, node: onnx.NodeProto) -> PadShortcut:
    """The checked node."""
    (source,) = r.inputs(node, 1)
    source, tensor = r.features(source)
    c, h, w = tensor.shape
    a = r.attributes(node, {"steps": 2, "pads": 8})
    (sy, sx), pads = a["steps"], a["pads"]
    if min(sy, sx) < 1 or max(sy, sx) > MAX_STRIDE or min(pads) < 0 or any(pads[i] for i in (0, 2, 3, 4, 6, 7)):
        raise r.fail(
            f"steps {[sy, sx]}, pads {list(pads)}: steps must be positive, at most {MAX_STRIDE}, pads only on channels and"
            " not negative"
        )
    r.add(node.output[0], Tensor("features", (pads[1] + c + pads[5], -(-h // sy), -(-w // sx))))
    return PadShortcut(node.name, source, node.output[0], (sy, sx), pads[1], pads[5])


OPERATORS = {(fmt.DOMAIN, fmt.PAD_SHORTCUT): read}
