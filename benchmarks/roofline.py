"""How near the popcount kernels come to the machine: each layer beside a register-only loop of the same instructions."""

from typing import Any

from bitplane.benchmarks.measure import interleaved
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
