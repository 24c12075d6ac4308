"""`bitplane predict`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from bitplane.cli.options import JsonFile, Model
from bitplane.cli.output import UsageError, say, write_json

if TYPE_CHECKING:
    import numpy as np

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

    from bitplane.runtime import InferenceSession

    session = InferenceSession(options.model)
    meta = session.get_modelmeta().custom_metadata_map
    classes, form = json.loads(meta["bitplane.classes"]), json.loads(meta["bitplane.input"])
    results: list[dict[str, Any]] = []
    for path in options.images:
        logits = session.run(None, {"input": _read_image(path, form)[None]})[0][0].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        top = p.argsort()[::-1][:TOP]
        say(f"{path}: " + ", ".join(f"{classes[i]} {100 * p[i]:.1f} %" for i in top))
        results.append({"image": str(path), "top": [{"class": classes[i], "probability": float(p[i])} for i in top]})
    write_json(options.json, results)


def _read_image(path: Path, form: dict[str, Any]) -> "np.ndarray":
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    height, width = form["size"]
    try:
        with Image.open(path) as image:
            x = np.asarray(image.convert("L" if form["channels"] == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError) as e:
        raise UsageError(f"{path}: not a readable image ({e}); give a PNG, JPEG or similar file") from e
    return x.reshape(height, width, -1).transpose(2, 0, 1).copy()
