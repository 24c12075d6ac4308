"""What a plan is made for."""

import os
from dataclasses import dataclass, field

from bitplane.runtime.kernels.target import MACHINE, Cpu


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan.

    Attributes:
        threads: that may share one image; each gets its own scratch part.
        merge: whether nodes are merged into steps (False only for tracing).
        reuse: whether values share memory (False only for tracing).
        inputs: tensors that no node makes and the caller fills in the arena (for a layer by itself).
        cpu: the processor; a plan for another one than this can be looked at, not run.
        verify: whether the plan verifier checks it; by default where BITPLANE_VERIFY is 1.
    """

    threads: int = 1
    merge: bool = True
    reuse: bool = True
    inputs: tuple[str, ...] = ()
    cpu: Cpu = MACHINE
    verify: bool = field(default_factory=lambda: os.environ.get("BITPLANE_VERIFY") == "1")
