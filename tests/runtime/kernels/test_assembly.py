"""What the kernels become on processors that this machine need not be: AVX-512, AVX2 and arm64, read from LLVM's assembly."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

X86 = "x86_64-unknown-linux-gnu"
AVX2 = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,+avx512vpopcntdq,+avx512bitalg"
TARGETS = {
    "AVX-512": (X86, "icelake-server", AVX512),
    "AVX2": (X86, "haswell", AVX2),
    "arm64": ("aarch64-unknown-linux-gnu", "generic", ""),
}
COUNTS = {  # what counts the bits of a vector, by bits of a lane
    ("AVX-512", "16"): r"vpopcntw .*[yz]mm",
    ("AVX-512", "32"): r"vpopcntd .*zmm",
    ("AVX-512", "64"): r"vpopcntq .*zmm",
    ("AVX2", "16"): r"vpshufb .*ymm",
    ("AVX2", "32"): r"vpshufb .*ymm",
    ("AVX2", "64"): r"vpshufb .*ymm",
    **{("arm64", bits): r"cnt v\d+\.16b, v\d+\.16b" for bits in ("16", "32", "64")},
}
DOTS = {"AVX-512": r"vpdpbusd .*zmm", "AVX2": r"vpmaddubsw .*ymm", "arm64": r"mla v\d+\.4s"}


@cache
def assembly(target):
    """Function -> instructions."""
    triple, cpu, features = TARGETS[target]
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    script = Path(__file__).with_name("assembly.py")
    done = subprocess.run([sys.executable, script, triple], capture_output=True, text=True, env=environment, check=False)
    if "No available targets" in done.stderr:
        pytest.skip(f"this llvmlite has no target for {triple}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def found(pattern, instructions):
    return [i for i in instructions if re.match(pattern, i)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_popcount_counts_the_bits_of_whole_vectors(target):
    tiles = {
        name: code
        for name, code in assembly(target).items()
        if name.startswith(("binary", "ternary")) and "look-up" not in name
    }
    assert len(tiles) >= 16
    for name, code in tiles.items():
        bits = re.search(r"(\d+)-bit", name)[1]
        assert found(COUNTS[target, bits], code), f"{name}: {sorted({i.split()[0] for i in code})}"
        assert not found(r"(popcnt|call|bl) ", code), f"{name} counts one word at a time"


@pytest.mark.parametrize("target", TARGETS)
def test_a_dot_product_of_bytes_runs_in_vectors(target):
    tiles = {name: code for name, code in assembly(target).items() if name.startswith("dot")}
    assert tiles
    for name, code in tiles.items():
        assert found(DOTS[target], code), name


def test_a_look_up_takes_one_instruction_for_32_channels_and_one_to_add():
    tiles = {name: code for name, code in assembly("AVX2").items() if "look-up" in name}
    assert len(tiles) >= 8
    for name, code in tiles.items():
        wide = "ymm" if "C2" in name or "P3C1" in name else "xmm"
        loops = [i for i in code if re.match(rf"vp(shufb|addb|subb) .*{wide}", i)]
        assert found(f"vpshufb .*{wide}", loops), name
        assert found(f"vpaddb .*{wide}", loops), name
        assert bool(found(f"vpsubb .*{wide}", loops)) or name.startswith("binary"), name
        assert not found("popcnt|call", code), name


def test_products_summed_in_16_bits_take_two_instructions():
    tiles = {name: code for name, code in assembly("AVX2").items() if name.startswith("dot16")}
    assert tiles
    for name, code in tiles.items():
        products, sums, wide = (len(found(f"{i} .*ymm", code)) for i in ("vpmaddubsw", "vpaddw", "vpmaddwd"))
        assert products == sums > 0, name
        pixels, vectors = map(int, re.search(r"P(\d+)C(\d+)", name).groups())
        assert wide == 2 * pixels * vectors, f"{name}: 32-bit sums belong to the end of a span, two registers a vector"
    assert not [
        name for target in ("AVX-512", "arm64") for name in assembly(target) if name.startswith("dot16") or "look-up" in name
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_no_multiplication_is_fused_with_an_addition(target):
    """A fused one rounds once: other bits than a machine that has none."""
    for name, code in assembly(target).items():
        assert not found(r"(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", code), name
        if name.startswith(("float", "epilogue 0")):
            assert found(r"v?f?mul(ps)? ", code), name
            assert found(r"v?f?add(ps)? ", code), name
