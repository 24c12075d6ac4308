"""A few packed files beside other engines, without a description: what `bitplane bench` and `bitplane demo` measure."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bitplane.benchmarks.candidates import Sources
from bitplane.benchmarks.description import Description, GroupPlan, Measure, check_group
from bitplane.benchmarks.images import Images
from bitplane.benchmarks.peers import OWN
from bitplane.benchmarks.results import Group
from bitplane.benchmarks.study import run_study


def compare(
    packed: Sequence[Path],
    float_model: Path | None,
    against: Sequence[str],
    images: Callable[[str], Images] | None,
    how: Measure,
) -> Group:
    """Measure packed files beside other engines.

    Args:
        packed: packed files; engines that open such files run them too.
        float_model: float32 ONNX file of the same architecture, or None.
        against: engines beside bitplane.
        images: function from a data set's name to its images, or None for latency only.
        how: how long.

    Raises:
        StudyError: an engine is unknown or a file is missing.
    """
    files = [str(p.resolve()) for p in packed]
    twin = str(float_model.resolve()) if float_model else ""
    data = "data" if images else ""
    g = GroupPlan(name="bench", packed=files, shared=files, float=twin, data=data, engines=[OWN, *against])
    check_group(g, "bench")
    with tempfile.TemporaryDirectory(prefix="bitplane-bench-") as folder:
        sources = Sources(Path("/"), Path(folder), images or _no_images)
        return run_study(Description("bitplane bench", [g], measure=how), sources, lambda s: None).groups[0]


def _no_images(name: str) -> Images:
    raise AssertionError(f"'{name}' was asked for, and no images were given")
