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
from bitplane.runtime.inspect.profile import StepTime
from bitplane.runtime.inspect.register_loop import register_loop
from bitplane.runtime.inspect.single_layer import make_layer


@dataclass(frozen=True)
class Shape:
    """A convolution of square images: sizes in, and how it moves."""

    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    out_channels: int = 0  # 0: as many as go in

    def __str__(self) -> str:
        out = f" to {self.out_channels}" if self.out_channels else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.channels}{out} channels @ {self.size}x{self.size}{stride}"

    @property
    def products(self) -> int:
        """Multiply-adds."""
        side = (self.size - 1) // self.stride + 1
        return self.channels * (self.out_channels or self.channels) * self.kernel**2 * side**2


WIDE = (Shape(64, 56), Shape(128, 28), Shape(256, 14), Shape(512, 7))
"""ResNet-18's 3x3 layers."""

OTHERS = (
    Shape(16, 32), Shape(32, 16), Shape(64, 8),  # ResNet-20's
    Shape(64, 56, stride=2, out_channels=128), Shape(256, 14, stride=2, out_channels=512),
    Shape(64, 56, kernel=1, stride=2, out_channels=128), Shape(256, 56, kernel=1, out_channels=64),
    Shape(256, 14, kernel=1, out_channels=1024), Shape(1024, 14, kernel=1, out_channels=256),
)  # fmt: skip

ROUNDS = 20_000
LAYER_WORK = 400_000_000
"""Multiply-adds of one timed call: a small layer runs many times, so that the call from Python does not count."""


def measure_kernels(rounds: int = 30) -> list[dict[str, Any]]:
    """Time convolutions with threshold and packing, 1-bit activations, one thread.

    Returns:
        One object a layer: "layer", "kernel", "us" (median), "gmacs" (giga multiply-adds a second), "limit_gmacs" (of the loop
        of popcounts, which look-ups may exceed), "of_limit".
    """
    rows = []
    for kind in ("binary", "ternary"):
        for shape in (*WIDE, *OTHERS):
            lane = min(64, shape.channels)
            layer = make_layer(
                kind,
                shape.channels,
                shape.size,
                out_channels=shape.out_channels or None,
                kernel=shape.kernel,
                stride=shape.stride,
            )
            times = max(1, LAYER_WORK // shape.products)
            work = register_loop(kind, lane, ROUNDS)
            parts = {"layer": lambda run=layer, n=times: run(n), "limit": lambda k=kind, b=lane: register_loop(k, b, ROUNDS)}
            found = interleaved(parts, rounds)
            us = found["layer"].median * 1e3 / times
            speed = shape.products / us / 1e3
            limit = work / found["limit"].median / 1e6
            rows.append(
                {
                    "layer": f"{kind} {shape}",
                    "kernel": layer.kernel,
                    "us": us,
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
