"""What commands share: a user's mistake, JSON files, and tables as text."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitplane.errors import BitplaneError

if TYPE_CHECKING:
    from bitplane.runtime import LayerInfo

HEADS = ("layer", "weight", "output", "weights", "in", "M mul-adds", "bytes", "smaller", "popcount", "dot", "look-up", "kernel")


class UsageError(BitplaneError):
    """An argument that cannot be used."""


def layer_table(layers: Sequence["LayerInfo"]) -> str:
    """One line a layer, and their sum."""
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.weight_shape)),
            "x".join(map(str, layer.output_shape)),
            layer.weights,
            f"{layer.activation_bits}b",
            f"{layer.multiply_adds / 1e6:.2f}",
            str(layer.packed_bytes),
            f"{layer.float_bytes / layer.packed_bytes:.1f}x",
            *(f"{v / 1e3:.1f}" if v is not None else "" for v in (layer.popcount_cost, layer.dot_cost, layer.look_up_cost)),
            layer.kernel,
        )
        for layer in layers
    ]
    work = sum(layer.multiply_adds for layer in layers)
    packed, plain = sum(layer.packed_bytes for layer in layers), sum(layer.float_bytes for layer in layers)
    rows.append(("all", "", "", "", "", f"{work / 1e6:.2f}", str(packed), f"{plain / max(packed, 1):.1f}x", "", "", "", ""))
    return table(HEADS, rows, right={4, 5, 6, 7, 8, 9, 10})


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns as wide as their widest cell; those in `right` are aligned to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return "\n".join("  ".join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines)


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; no path, no file."""
    if path is not None:
        write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: exists and is not a regular file; choose another path")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written ({e.strerror}); choose another path or free some space") from e
