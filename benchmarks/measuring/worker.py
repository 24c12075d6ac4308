"""A process of its own for one engine on one file: it loads, says how long that took, and then measures when it is told to.

Messages are JSON, one a line. On standard input: {"do": "turn", "seconds": s, "least": n} or {"do": "accuracy"}; answers, and
first of all {"ready": ...}, go to what was standard output when the process started. What engines print goes to standard error.

`python -m bitplane.benchmarks.measuring.worker SPEC`, SPEC being a JSON object: module, variant,
file (for a layer its name), threads, purpose, images (.npy, uint8 [N, C, H, W], whose first `batch_size` are timed; "" for a
layer), and for accuracy test_images and test_labels (.npy).
"""

import importlib
import json
import os
import sys
import time
from typing import Any


def main(spec: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begin = time.perf_counter()
    engine = importlib.import_module(spec["module"])
    imported = time.perf_counter()
    loaded = engine.load(spec["file"], spec["threads"], spec["purpose"], spec["variant"])
    opened = time.perf_counter()
    inputs = _inputs(spec)
    ready = time.perf_counter()
    loaded.run(*inputs)
    done = time.perf_counter()
    times = {"imports": imported - begin, "load": opened - imported, "first": done - ready}
    report = {k: v * 1e3 for k, v in times.items()} | {"peak_mb": _peak_mb(), "version": loaded.version}
    report |= {"settings": loaded.settings, "note": loaded.note, "multiply_adds": loaded.multiply_adds}
    report["product"] = loaded.product
    print(json.dumps({"ready": report}), file=answers)
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "accuracy":
            print(json.dumps({"top1": _accuracy(loaded.run, spec)}), file=answers)
        else:
            ms, warm = _turn(loaded.run, inputs, message["seconds"], message["least"])
            print(json.dumps({"ms": ms, "warm": warm}), file=answers)


def _inputs(spec: dict[str, Any]) -> tuple[Any, ...]:
    import numpy as np

    if not spec["images"]:
        return ()
    images = np.load(spec["images"], mmap_mode="r")[
        : spec["batch_size"]
    ]  # no more of them: they would count as the engine's memory
    return (np.resize(images, (spec["batch_size"], *images.shape[1:])),)


def _turn(run: Any, inputs: tuple[Any, ...], seconds: float, least: int) -> tuple[list[float], int]:
    """Milliseconds of each call, and the calls before them: a fifth of the turn warms up caches, clocks and thread pools."""
    clock = time.perf_counter
    end = clock() + seconds / 5
    warm = 0
    while True:
        run(*inputs)
        warm += 1
        if clock() >= end:
            break
    times: list[float] = []
    end = clock() + seconds
    while True:
        start = clock()
        run(*inputs)
        now = clock()
        times.append((now - start) * 1e3)
        if now >= end and len(times) >= least:
            return times, warm


def _accuracy(run: Any, spec: dict[str, Any]) -> float:
    import numpy as np

    from bitplane.benchmarks.measuring.timing import accuracy

    return accuracy(run, np.load(spec["test_images"], mmap_mode="r"), np.load(spec["test_labels"]))


def _peak_mb() -> float | None:
    """Largest resident memory of this process so far (Linux: VmHWM, which, unlike getrusage's, does not count the parent's)."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        return None


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
