"""One comparison: packed files in bitplane beside the float twin and its int8 form in onnxruntime."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitplane.benchmarks.measure import Latency, interleaved
from bitplane.benchmarks.peers import ort
from bitplane.runtime import InferenceSession, SessionOptions

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One line of the table: an engine on a file at a thread count; accuracy is None without labelled images."""

    name: str
    engine: str
    threads: int
    latency: Latency
    accuracy: float | None
    bytes: int


def accuracy(run: Callable[[Images], npt.NDArray[np.float32]], images: Images, labels: npt.NDArray[np.int64]) -> float:
    """Top-1 accuracy of `run` (uint8 [N, C, H, W] to logits [N, classes]) in batches of 100."""
    parts = [run(images[i : i + 100]).argmax(1) for i in range(0, len(images), 100)]
    return float((np.concatenate(parts) == labels).mean())


def compare(
    packed: list[str],
    float_file: str | None,
    calibration: Images,
    test: tuple[Images, npt.NDArray[np.int64]] | None,
    threads: tuple[int, ...],
    batch: int = 1,
    rounds: int = 30,
) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Measure all contestants at each thread count.

    Args:
        packed: packed files.
        float_file: float32 ONNX file of the same architecture, measured in onnxruntime and statically quantized to int8.
        calibration: uint8 [N, C, H, W] images for latency and int8 calibration.
        test: images and labels for accuracy.
        threads: thread counts.
        batch: images a call.
        rounds: turns of each contestant.

    Returns:
        Rows, and for each packed file the kernel of every layer.
    """
    rows: list[Row] = []
    kernels: dict[str, dict[str, str]] = {}
    int8 = ort.int8_qdq(float_file, calibration[:64]) if float_file else None
    accuracies: dict[str, float | None] = {}
    for count in threads:
        sessions: dict[str, tuple[str, Any, int]] = {}
        for path in packed:
            options = SessionOptions()
            options.intra_op_num_threads = count
            own = InferenceSession(path, options)
            kernels[path] = own.kernels()
            sessions[path] = ("bitplane", own, _size(path))
        if float_file and int8:
            sessions[float_file] = ("onnxruntime float32", ort.session(float_file, count), _size(float_file))
            sessions[f"{float_file} (int8)"] = ("onnxruntime int8", ort.session(int8, count), len(int8))
        calls = {n: _call(s, np.resize(calibration, (batch, *calibration.shape[1:]))) for n, (_, s, _) in sessions.items()}
        times = interleaved(calls, rounds)
        for name, (engine, s, size) in sessions.items():
            if name not in accuracies:
                accuracies[name] = accuracy(lambda x, s=s: s.run(None, {s.get_inputs()[0].name: x})[0], *test) if test else None
            rows.append(Row(name, engine, count, times[name], accuracies[name], size))
    return rows, kernels


def table(rows: list[Row]) -> str:
    """Rows as text; the factor is against onnxruntime float32 at the same thread count."""
    base = {r.threads: r.latency.median for r in rows if r.engine == "onnxruntime float32"}
    lines = [f"{'file':34} {'engine':20} {'thr':>3} {'median ms':>9} {'p90 ms':>8} {'faster':>7} {'top-1':>7} {'bytes':>9}"]
    for r in rows:
        faster = f"{base[r.threads] / r.latency.median:.2f}x" if r.threads in base else "-"
        top1 = "-" if r.accuracy is None else f"{100 * r.accuracy:.2f}%"
        lines.append(
            f"{r.name[-34:]:34} {r.engine:20} {r.threads:3} {r.latency.median:9.4f} {r.latency.p90:8.4f} "
            f"{faster:>7} {top1:>7} {r.bytes:9}"
        )
    return "\n".join(lines)


def document(rows: list[Row], kernels: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Rows and kernels as a JSON value."""
    return {"rows": [asdict(r) for r in rows], "kernels": kernels}


def plot(rows: list[Row], path: str) -> None:
    """Draw top-1 accuracy over median latency (logarithmic) into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    engines = sorted({r.engine for r in rows})
    threads = sorted({r.threads for r in rows})
    points = [(r, 100 * r.accuracy) for r in rows if r.accuracy is not None]
    for index, (r, top1) in enumerate(points):
        axes.scatter(
            r.latency.median,
            top1,
            marker="os^Dv"[engines.index(r.engine) % 5],
            s=60,
            facecolor=f"C{index % 10}" if r.threads == threads[0] else "none",
            edgecolor=f"C{index % 10}",
            label=f"{r.name.rsplit('/', 1)[-1]}, {r.engine}, {r.threads} thread{'s' * (r.threads > 1)}",
        )
    axes.set_xscale("log")
    axes.set_xlabel("median latency, ms")
    axes.set_ylabel("top-1 accuracy, %")
    axes.margins(0.2)
    axes.grid(alpha=0.3, which="both")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=7, ncols=2, frameon=False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _call(session: Any, x: Images) -> Callable[[], object]:
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def _size(path: str) -> int:
    from pathlib import Path

    return Path(path).stat().st_size
