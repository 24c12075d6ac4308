"""How near the popcount kernels come to the machine: each layer beside a register-only loop of the same instructions."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from bitplane.benchmarks.measure import interleaved
from bitplane.runtime import InferenceSession, SessionOptions
from bitplane.runtime.kernels.limit import register_loop
from bitplane.runtime.layer import make_layer

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7), (16, 32), (32, 16), (64, 8))
ROUNDS = 20_000


def measure_kernels(rounds: int = 30) -> list[dict[str, Any]]:
    """Time 3x3 convolutions with threshold and packing, 1-bit activations, one thread.

    Returns:
        One object a layer: "layer", "us" (median), "gmacs" (giga multiply-adds a second), "limit_gmacs", "of_limit".
    """
    rows = []
    for kind in ("binary", "ternary"):
        for channels, size in SHAPES:
            lane = min(64, channels)
            layer = make_layer(kind, channels, size)
            work = register_loop(kind, lane, ROUNDS)
            times = interleaved({"layer": layer, "limit": lambda k=kind, b=lane: register_loop(k, b, ROUNDS)}, rounds)
            macs = channels * channels * 9 * size * size
            speed = macs / times["layer"].median / 1e6
            limit = work / times["limit"].median / 1e6
            name = f"{kind} 3x3 {channels} channels @ {size}x{size}"
            rows.append(
                {
                    "layer": name,
                    "us": times["layer"].median * 1e3,
                    "gmacs": speed,
                    "limit_gmacs": limit,
                    "of_limit": speed / limit,
                }
            )
    return rows


def profile(file: Path, runs: int = 200) -> tuple[list[dict[str, Any]], str]:
    """Time every step of a network, batch 1, one thread, and put popcount layers beside the register loop of this run.

    Args:
        file: a packed file that takes pixels.
        runs: images (random); the first tenth warms up.

    Returns:
        One object a step: "name", "kernel", "us", "share" of all steps, "gmacs", and for popcount layers "of_limit"; and the
        name of the Chrome trace, in the working folder.
    """
    options = SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, file.stem
    session = InferenceSession(file, options)
    shape = session.get_inputs()[0].shape[1:]
    images = np.random.default_rng(0).integers(0, 256, (runs, *shape), dtype=np.uint8)  # type: ignore[arg-type]
    InferenceSession(file, threads=1).run(None, {"input": images[: runs // 10]})
    session.run(None, {"input": images})
    steps = session.profiled()
    whole = sum(s.us for s in steps)
    limits: dict[tuple[str, int], float] = {}
    rows: list[dict[str, Any]] = []
    for s in steps:
        row = {"name": s.name, "kernel": s.kernel, "us": s.us, "share": s.us / whole, "gmacs": s.gmacs}
        found = re.match(r"popcount (binary|ternary|quaternary) x(\d)b, (\d+)-bit", s.kernel)
        if found:
            kind, lane = "ternary" if found[1] == "ternary" else "binary", int(found[3])
            products = int(found[2]) * (2 if found[1] == "quaternary" else 1)
            if (kind, lane) not in limits:
                limits[kind, lane] = _limit(kind, lane)
            row["of_limit"] = s.gmacs * products / limits[kind, lane]
        rows.append(row)
    return rows, session.end_profiling()


def _limit(kind: str, lane: int) -> float:
    """Giga products a second of the register loop."""
    work = register_loop(kind, lane, ROUNDS)
    times = interleaved({"limit": lambda: register_loop(kind, lane, ROUNDS)}, 10)
    return work / times["limit"].median / 1e6
