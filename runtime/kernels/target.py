"""The processor that kernels are compiled for: this one, or the one that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name.

The two variables mean what they mean to numba, which compiles: a name without features takes the features of this processor,
but for "generic", which has none.
"""

import os
from dataclasses import dataclass

import llvmlite.binding as llvm


def cpu_name() -> str:
    """LLVM's name of the processor."""
    return os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()


def cpu_features() -> str:
    """LLVM's features of the processor, such as "+avx2,-avx512f"."""
    given = os.environ.get("NUMBA_CPU_FEATURES")
    if given is None and cpu_name().lower() == "generic":
        return ""
    return given if given is not None else llvm.get_host_cpu_features().flatten()


def has(feature: str) -> bool:
    """Whether the processor has a feature, by LLVM's name."""
    return f"+{feature}" in cpu_features().split(",")


HAS_VNNI = has("avx512vnni")
HAS_POPCOUNT = has("avx512vpopcntdq")
HAS_AVX2 = has("avx2")
HAS_AVX512 = has("avx512f")
IS_ARM = llvm.get_process_triple().startswith(("aarch64", "arm64"))


@dataclass(frozen=True)
class Cpu:
    """What the shapes and the cost of kernels depend on.

    Attributes:
        name: of the set of features.
        avx2: 256-bit integer vectors.
        avx512: 512-bit vectors.
        popcount: a popcount of every lane of them (VPOPCNTDQ).
        arm: NEON, which counts the bits of bytes.
    """

    name: str
    avx2: bool = False
    avx512: bool = False
    popcount: bool = False
    arm: bool = False


CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("generic"),
        Cpu("neon", arm=True),
        Cpu("avx2", avx2=True),
        Cpu("avx512", avx2=True, avx512=True),
        Cpu("avx512-vpopcntdq", avx2=True, avx512=True, popcount=True),
    )
}
"""Sets of features by name: any x86-64; any arm64; Haswell, Zen 2; Cascade Lake (VNNI, no popcount); Ice Lake, Zen 4."""

MACHINE = Cpu(cpu_name(), HAS_AVX2, HAS_AVX512, HAS_POPCOUNT, IS_ARM)
"""The processor that kernels are compiled for."""
