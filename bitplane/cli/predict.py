"""`bitplane predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from bitplane.cli.options import JsonFile, Model
from bitplane.cli.output import UsageError, say, write_json
from bitplane.format.text import plain

TOP = 3
"""Classes named for each image."""


@dataclass(frozen=True)
class Options:
    """Classify image files.

    Attributes:
        model: a packed file.
        images: image files.
        json: write the result to this file.
    """

    model: Model
    images: Positional[tuple[Path, ...]]
    json: JsonFile = None


def run(options: Options) -> None:
    """Print the likeliest classes of each image."""
    import numpy as np

    from bitplane.format.metadata import check_fit, read_metadata
    from bitplane.pixels import PixelForm, read_pixels
    from bitplane.runtime import InferenceSession

    session = InferenceSession(options.model)
    label, (given,), (logits,) = str(options.model), session.get_inputs(), session.get_outputs()
    meta = read_metadata(session.get_modelmeta().custom_metadata_map, label)
    count = int(logits.shape[1])
    check_fit(meta, label, tuple(int(d) for d in given.shape[1:]), count)
    if meta.input is None or given.type != "tensor(uint8)":
        raise UsageError(f"{label}: takes no images but arrays; run it with bitplane.runtime")
    classes = meta.classes or tuple(str(i) for i in range(count))
    form = PixelForm.of(meta.input)
    results: list[dict[str, Any]] = []
    for path in options.images:
        values = session.run(None, {"input": read_pixels(path, form)[None]})[0][0].astype(np.float64)
        p = np.exp(values - values.max())
        p /= p.sum()
        top = p.argsort()[::-1][:TOP]
        say(f"{plain(str(path))}: " + ", ".join(f"{plain(classes[i], 100)} {100 * p[i]:.1f} %" for i in top))
        results.append({"image": str(path), "top": [{"class": classes[i], "probability": float(p[i])} for i in top]})
    write_json(options.json, results)
