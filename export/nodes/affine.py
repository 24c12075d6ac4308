"""Affine: a BatchNorm that is not folded (yet)."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from bitplane.export.errors import ExportError
from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Float64, Unary


@dataclass(frozen=True)
class Affine(Unary):
    """factor * x + offset, float64 [C] each; `passes/fold` leaves none."""

    factor: Float64
    offset: Float64

    def evaluate(self, inputs: list[Tensor]) -> Tensor:
        """Its value."""
        x = inputs[0]
        factor, offset = (torch.from_numpy(v.astype(np.float32)) for v in (self.factor, self.offset))
        view = (-1, *[1] * (x.dim() - 2))
        return x * factor.view(view) + offset.view(view)

    def write(self, graph: GraphBuilder) -> NoReturn:
        """No form holds one."""
        raise ExportError(f"{self.name}: an affine map is left unfolded")
