"""What instructions are made from: where values lie, and the constants, which grow as instructions need them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.instructions import Codes, Scratch
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.layouts import CodesLayout, FeaturesLayout, pad_channels
from bitplane.runtime.model.graph import Model
from bitplane.runtime.plan.arena import Constants
from bitplane.runtime.plan.memory import Memory


@dataclass(frozen=True, eq=False)
class Emission:
    """The context of one plan.

    Attributes:
        model: what is planned.
        memory: where values lie.
        cpu: the processor.
        constants: weights and what epilogues need, packed once.
    """

    model: Model
    memory: Memory
    cpu: Cpu
    constants: Constants
    _shared: dict[bytes, int] = field(default_factory=dict[bytes, int])

    @property
    def scratch(self) -> Scratch:
        """The threads' scratch parts."""
        return self.memory.scratch

    def features(self, name: str) -> tuple[FeaturesLayout, int]:
        """Layout and arena offset of features."""
        return self.memory.features[name]

    def codes(self, name: str) -> tuple[CodesLayout, int]:
        """Layout and arena offset of codes, or of a copy inside a halo."""
        return self.memory.codes[name]

    def channels(self, name: str) -> int:
        """Channels of a tensor, without padding."""
        return self.model.tensors[name].shape[0]

    def bits(self, name: str) -> int:
        """Bits of a code of a tensor."""
        return self.model.tensors[name].bits

    def constant(self, array: NDArray[np.generic]) -> int:
        """Store a constant; returns its offset."""
        return self.constants.add(array)

    def shared_constant(self, array: NDArray[np.generic]) -> int:
        """Store a constant once; equal ones share it."""
        key = array.tobytes()
        if key not in self._shared:
            self._shared[key] = self.constants.add(array)
        return self._shared[key]

    def channel_constant(self, values: NDArray[np.generic]) -> int:
        """Store one value a channel, padded with zeros to whole vectors; returns its offset."""
        wide = np.zeros(pad_channels(len(values)), values.dtype)
        wide[: len(values)] = values
        return self.constants.add(wide)

    def output(self, name: str) -> Codes:
        """Where codes are written."""
        layout, at = self.codes(name)
        return Codes(at + layout.at(0, 0), layout.plane, layout.row, layout.pixel, self.bits(name))
