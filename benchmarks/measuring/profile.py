"""Where the time of a network goes: every step by itself, popcount layers beside the register loop of the same run."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bitplane.benchmarks.measuring.kernels import ROUNDS
from bitplane.benchmarks.measuring.timing import interleaved
from bitplane.runtime import InferenceSession, LayerInfo, SessionOptions
from bitplane.runtime.inspect.register_loop import register_loop


@dataclass(frozen=True)
class ProfiledStep:
    """A step of a network.

    Attributes:
        name: of its first node.
        kernel: what ran it, for people.
        product: what multiplied: "popcount", "look-up", "bytes" or "float32"; empty if nothing did.
        us: microseconds of one image, median.
        share: of all steps.
        multiply_adds: of one image.
        gmacs: giga multiply-adds a second.
        of_limit: of popcounts, the share of the register loop's speed; None for other products.
    """

    name: str
    kernel: str
    product: str
    us: float
    share: float
    multiply_adds: int
    gmacs: float
    of_limit: float | None


@dataclass(frozen=True)
class NetworkProfile:
    """Where the time of a network goes.

    Attributes:
        steps: in order.
        trace: the Chrome trace, JSON.
        call_us: median of a whole call in microseconds, timed in turns with the steps.
    """

    steps: list[ProfiledStep]
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
        calls: list[float] = []
        for _ in range(runs):
            start = time.perf_counter()
            plain.run(None, feed)
            calls.append(time.perf_counter() - start)
            session.run(None, feed)
        times = session.profiled()
        trace = json.loads(Path(session.end_profiling()).read_text())
    layers = {layer.name: layer for layer in session.layers()}
    shares = _shares_of_limit({s.name: s.gmacs for s in times}, layers)
    whole = sum(s.us for s in times)
    steps = [
        ProfiledStep(
            s.name,
            s.kernel,
            layers[s.name].product if s.name in layers else "",
            s.us,
            s.us / whole,
            s.multiply_adds,
            s.gmacs,
            shares.get(s.name),
        )
        for s in times
    ]
    for event in trace["traceEvents"]:
        if event["name"] in shares:
            event["args"]["median_of_register_loop"] = round(shares[event["name"]], 3)
    return NetworkProfile(steps, json.dumps(trace), float(np.median(calls)) * 1e6)


def _shares_of_limit(gmacs: dict[str, float], layers: dict[str, LayerInfo]) -> dict[str, float]:
    """Name of each layer that counts bits to its share of the register loop's speed."""
    limits: dict[tuple[str, int], float] = {}
    shares: dict[str, float] = {}
    for name, speed in gmacs.items():
        layer = layers.get(name)
        if layer is None or layer.product != "popcount":
            continue
        kind = "ternary" if layer.weights == "ternary" else "binary"
        popcounts = layer.activation_bits * (1 if layer.weights in ("binary", "ternary") else 2)  # of one multiply-add
        key = kind, layer.lanes
        if key not in limits:
            limits[key] = _limit(*key)
        shares[name] = speed * popcounts / limits[key]
    return shares


def _limit(kind: str, lanes: int) -> float:
    """Giga products a second of the register loop."""
    work = register_loop(kind, lanes, ROUNDS)
    times = interleaved({"limit": lambda: register_loop(kind, lanes, ROUNDS)}, 10)
    return work / times["limit"].median / 1e6
