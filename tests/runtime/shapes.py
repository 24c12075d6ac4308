"""Another processor's shapes of kernels and choices of plans, lowered by LLVM for this one.

What is ours of the AVX-512 forms (tiles, layouts, costs, epilogues of 512-bit vectors) is generic vector code, so any processor
can show that its values are right; only the instructions that LLVM picks for it, and the byte dot product of VNNI, need the
machine itself.

    pytest tests/runtime --shapes avx512-vpopcntdq      # or another name in `target.CPUS`
"""

import importlib.util
import sys
from pathlib import Path

TARGET = "bitplane.runtime.kernels.target"


def install(name):
    """Make kernels and plans those of a set of features in `target.CPUS`, in this process."""
    assert TARGET not in sys.modules, "kernels have their shapes already"
    # Importing it by its name would import the kernels with it.
    spec = importlib.util.spec_from_file_location(TARGET, Path(__file__).parents[2] / "runtime" / "kernels" / "target.py")
    target = sys.modules[TARGET] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    target.MACHINE = target.CPUS[name]
    target.HAS_POPCOUNT, target.HAS_VNNI = target.MACHINE.popcount, False
    processor = target.cpu_name()
    target.cpu_name = lambda: f"{name} on {processor}"  # machine code of this name is kept apart from the real one
