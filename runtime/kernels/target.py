"""The processor that kernels are compiled for: this one, or the one that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name.

The two variables mean what they mean to numba, which compiles: a name without features takes the features of this processor,
but for "generic", which has none.
"""

import os

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
