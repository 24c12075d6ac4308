"""How near the popcount kernels come to the machine: each layer beside a register-only loop of the same instructions."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bitplane.benchmarks.measure import interleaved
from bitplane.runtime import InferenceSession, SessionOptions
from bitplane.runtime.kernels.limit import register_loop
from bitplane.runtime.layer import make_layer
from bitplane.runtime.profile import StepTime

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7), (16, 32), (32, 16), (64, 8))
ROUNDS = 20_000


def measure_kernels(rounds: int = 30) -> list[dict[str, Any]]:
    """Time 3x3 convolutions with threshold and packing, 1-bit activations, one thread.

    Returns:
        One object a layer: "layer", "kernel", "us" (median), "gmacs" (giga multiply-adds a second), "limit_gmacs" (of the loop
        of popcounts, which look-ups may exceed), "of_limit".
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
                    "kernel": layer.kernel,
                    "us": times["layer"].median * 1e3,
                    "gmacs": speed,
                    "limit_gmacs": limit,
                    "of_limit": speed / limit,
                }
            )
    return rows


@dataclass(frozen=True)
class NetworkProfile:
    """Where the time of a network goes.

    Attributes:
        rows: one object a step: "name", "kernel", "us" (median), "share" of all steps, "multiply_adds", "gmacs" (giga
            multiply-adds a second), and for popcount layers "of_limit".
        trace: the Chrome trace, JSON.
        call_us: median of a whole call in microseconds, timed in turns with the steps.
    """

    rows: list[dict[str, Any]]
    trace: str
    call_us: float


def profile(file: Path, runs: int = 200) -> NetworkProfile:
    """Time every step of a network, batch 1, one thread, and put popcount layers beside the register loop of this run.

    Args:
        file: a packed file.
        runs: images (random); a tenth more warm up.
    """
    plain = InferenceSession(file, threads=1)
    (given,) = plain.get_inputs()
    shape, rng = given.shape[1:], np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *shape), dtype=np.uint8)  # type: ignore[arg-type]
    feed = {"input": image if given.type == "tensor(uint8)" else rng.normal(size=image.shape).astype(np.float32)}
    with TemporaryDirectory(prefix="bitplane-profile-") as folder:
        session = InferenceSession(file, SessionOptions(enable_profiling=True, profile_file_prefix=f"{folder}/p"))
        for _ in range(runs // 10):
            plain.run(None, feed)
        calls = []
        for _ in range(runs):
            start = time.perf_counter()
            plain.run(None, feed)
            calls.append(time.perf_counter() - start)
            session.run(None, feed)
        steps = session.profiled()
        trace = json.loads(Path(session.end_profiling()).read_text())
    rows = _beside_limit(steps)
    shares = {r["name"]: round(r["of_limit"], 3) for r in rows if "of_limit" in r}
    for event in trace["traceEvents"]:
        if event["name"] in shares:
            event["args"]["median_of_register_loop"] = shares[event["name"]]
    return NetworkProfile(rows, json.dumps(trace), float(np.median(calls)) * 1e6)


def _beside_limit(steps: list[StepTime]) -> list[dict[str, Any]]:
    whole = sum(s.us for s in steps)
    limits: dict[tuple[str, int], float] = {}
    rows: list[dict[str, Any]] = []
    for s in steps:
        row: dict[str, Any] = {"name": s.name, "kernel": s.kernel, "us": s.us, "share": s.us / whole}
        row |= {"multiply_adds": s.multiply_adds, "gmacs": s.gmacs}
        found = re.match(r"popcount (binary|ternary|quaternary) x(\d)b, (\d+)-bit", s.kernel)
        if found:
            kind, lane = "ternary" if found[1] == "ternary" else "binary", int(found[3])
            products = int(found[2]) * (2 if found[1] == "quaternary" else 1)
            if (kind, lane) not in limits:
                limits[kind, lane] = _limit(kind, lane)
            row["of_limit"] = s.gmacs * products / limits[kind, lane]
        rows.append(row)
    return rows


def _limit(kind: str, lane: int) -> float:
    """Giga products a second of the register loop."""
    work = register_loop(kind, lane, ROUNDS)
    times = interleaved({"limit": lambda: register_loop(kind, lane, ROUNDS)}, 10)
    return work / times["limit"].median / 1e6
