"""`Normalize`: uint8 pixels to float32 features, (pixel - mean) / std; and a float32 input, which is features already."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.format import names as fmt
from bitplane.runtime import instructions
from bitplane.runtime.operators.base import PlanContext, Standalone, Tensor
from bitplane.runtime.operators.reader import LOADED, Reader


@dataclass(frozen=True, eq=False)
class Load(Standalone):
    """The input as features, channels last: (pixel - mean) / std, float32 [C] each, or float32 input as it is (None)."""

    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Features of the input [C, H, W]."""
        floats = values[0].astype(np.float32)
        if self.mean is None or self.std is None:
            return floats
        return (floats - self.mean[:, None, None]) / self.std[:, None, None]

    def instruction(self, memory: PlanContext) -> instructions.Load:
        """One instruction."""
        layout, at = memory.features(self.output)
        is_normalized = self.mean is not None and self.std is not None
        return instructions.Load(
            height=layout.height,
            width=layout.width,
            channels=layout.channels,
            source_channels=memory.channels(self.source),
            normalizes=int(is_normalized),
            mean=0 if self.mean is None else memory.constant(self.mean),
            std=0 if self.std is None else memory.constant(self.std),
            features=at,
            features_row=layout.row,
        )

    def kernel(self) -> str:
        """What runs it."""
        return "channels last" if self.mean is None else "normalize float32"


def read(r: Reader, node: onnx.NodeProto) -> Load:
    """The checked node."""
    source, *names = r.inputs(node, 3)
    r.attributes(node)
    shape = r.value(source, "pixels").shape
    mean, std = (r.constant(name, np.float32, (shape[0], 1, 1)).reshape(-1) for name in names)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise r.fail(f"mean '{names[0]}' must be finite, std '{names[1]}' positive and finite")
    r.add(node.output[0], Tensor("features", shape))
    return Load(node.name, source, node.output[0], mean, std)


def read_float_input(r: Reader, shape: tuple[int, int, int]) -> Load:
    """The node that takes a float32 input [C, H, W] as it is."""
    r.add(LOADED, Tensor("features", shape))
    return Load("load", fmt.INPUT_NAME, LOADED)


OPERATORS = {(fmt.DOMAIN, fmt.NORMALIZE): read}
