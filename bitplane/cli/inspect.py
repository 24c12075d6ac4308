"""`bitplane inspect`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bitplane.cli.options import JsonFile, Model
from bitplane.cli.output import say, say_table, write_json
from bitplane.format.text import plain

if TYPE_CHECKING:
    from bitplane.runtime import LayerInfo

HEADS = ("layer", "weight", "output", "weights", "in", "M mul-adds", "bytes", "smaller", "popcount", "dot", "look-up", "kernel")


@dataclass(frozen=True)
class Options:
    """Show what a packed file holds and which kernel runs each layer.

    Attributes:
        model: a packed file.
        json: write it to this file.
    """

    model: Model
    json: JsonFile = None


def run(options: Options) -> None:
    """Print metadata, layers, cost and size."""
    from bitplane.format.metadata import read_metadata
    from bitplane.runtime import InferenceSession, model_cost

    session = InferenceSession(options.model)
    meta, layers = dict(session.get_modelmeta().custom_metadata_map), session.layers()
    known = read_metadata(meta, str(options.model))
    for key, value in sorted(meta.items()):
        say(f"{plain(key.removeprefix('bitplane.')):20} {plain(value)}")
    say()
    _say_layers(layers)
    say()
    say(
        "popcount, dot, look-up: thousands of vector instructions that each product would take here (estimated); the plan takes"
    )
    say("the one that is cheapest for all layers that read a tensor.")
    cost = model_cost(options.model)
    say(
        f"one image on {cost.cpu}: {cost.multiply_adds / 1e6:.2f} M multiply-adds, {cost.bytes_moved / 1e6:.3f} MB moved, "
        f"{cost.instructions / 1e6:.3f} M instructions (modeled)"
    )
    size, plain_bytes = options.model.stat().st_size, sum(layer.float_bytes for layer in layers)
    say(f"file: {size} bytes, {plain_bytes / size:.1f}x smaller than its float32 weights")
    if known.accuracy is not None:
        say(f"accuracy in training: {100 * known.accuracy:.2f} % top-1 on {known.dataset}")
    document = {"metadata": meta, "layers": [asdict(layer) for layer in layers], "file_bytes": size}
    write_json(options.json, document | {"kernels": session.kernels(), "cost": asdict(cost)})


def _say_layers(layers: "Sequence[LayerInfo]") -> None:
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
    packed, plain_bytes = sum(layer.packed_bytes for layer in layers), sum(layer.float_bytes for layer in layers)
    smaller = f"{plain_bytes / max(packed, 1):.1f}x"
    rows.append(("all", "", "", "", "", f"{work / 1e6:.2f}", str(packed), smaller, "", "", "", ""))
    say_table(HEADS, rows, right={4, 5, 6, 7, 8, 9, 10})
