"""The networks of a study's group: packed files as they lie there, exported runs, or untrained ones of a given shape."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitplane.benchmarks.description import GroupPlan, find_files
from bitplane.benchmarks.errors import StudyError
from bitplane.format.metadata import read_metadata

if TYPE_CHECKING:
    from bitplane.train.data import Dataset


@dataclass(frozen=True)
class Network:
    """A packed file.

    Attributes:
        name: what the table calls it.
        file: where it is.
        weights: level set.
        activations: bits.
        model: architecture.
        shape: [C, H, W] of an image; () where it is not known.
        classes: names of its classes, in the order of its logits; () where it names none.
    """

    name: str
    file: Path
    weights: str
    activations: int
    model: str = ""
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()


def packed_network(file: Path) -> Network:
    """What a packed file says of itself.

    Raises:
        ModelError: it is not a packed file.
        MetadataError: its metadata cannot be used.
    """
    from bitplane.runtime import InferenceSession

    session = InferenceSession(file)
    meta = read_metadata(session.get_modelmeta().custom_metadata_map, str(file))
    bits = meta.activation_bits if meta.activation_bits is not None else "mixed"
    shape = tuple(int(d) for d in session.get_inputs()[0].shape[1:])
    name = f"{meta.model} {meta.level_set}/{bits}"
    return Network(name, file, meta.level_set, meta.activation_bits or 0, meta.model, shape, meta.classes)


def find_networks(
    g: GroupPlan, folder: Path, work: Path, load: "Callable[[str], Dataset] | None"
) -> tuple[list[Network], Path | None]:
    """The packed files of a group, made where they are not given, and the float twin.

    Args:
        g: the group.
        folder: of the description: what its paths are relative to.
        work: folder for files that are made.
        load: data set of a name, for experiments; None where there are none.

    Raises:
        StudyError: a file is missing.
        BitplaneError: a run cannot be trained or exported.
    """
    where = f"group '{g.name}'"
    if g.model:
        return _untrained(g, work)
    found = _exported(g, folder, work, load) if g.experiment else find_files(folder, g.packed, where)
    networks = [packed_network(f) for f in found]
    count = Counter(n.name for n in networks)
    networks = [replace(n, name=n.file.stem) if count[n.name] > 1 else n for n in networks]
    return networks, find_files(folder, [g.float], where)[0] if g.float else None


def _untrained(g: GroupPlan, work: Path) -> tuple[list[Network], Path]:
    """Networks with random weights: their latency is that of trained ones of the same shape."""
    import torch

    from bitplane.export import to_onnx
    from bitplane.train.config import ModelConfig
    from bitplane.train.models.untrained import untrained_model

    pixels = torch.randint(0, 256, (4, 3, g.size, g.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made: dict[str, Path] = {}
    for entry in ["float/32", *g.low_bit]:
        levels, _, bits = entry.partition("/")
        out = work / f"{g.model}-{g.size}-{levels}{bits}.onnx"
        made[entry] = out
        if out.exists():
            continue
        config: dict[str, Any] = {"model": g.model, "weights": levels, "activations": int(bits), "classes": 1000}
        to_onnx(untrained_model(ModelConfig(**config), pixels), pixels, out)
    networks = [packed_network(made[e]) for e in g.low_bit]
    named = [replace(n, name=f"{g.model} {e}", model=g.model) for n, e in zip(networks, g.low_bit, strict=True)]
    return named, made["float/32"]


def _exported(g: GroupPlan, folder: Path, work: Path, load: "Callable[[str], Dataset] | None") -> list[Path]:
    import fnmatch

    from bitplane.export import export_run
    from bitplane.train.experiments import plan, read_experiment, run_missing

    options = {k: v for k, v in {"epochs": g.epochs, "data": g.data or None}.items() if v is not None}
    planned = plan(read_experiment(folder / g.experiment), folder / g.runs, options)
    only = g.only or ["*"]
    chosen = [p for p in planned if any(fnmatch.fnmatchcase(f"{p.folder.parent.name}/{p.folder.name}", o) for o in only)]
    if not chosen:
        raise StudyError(f"group '{g.name}': `only` matches no run of {g.experiment}")
    if load is None:
        raise StudyError(f"group '{g.name}': its runs need their data sets")
    if failures := run_missing(chosen, lambda config: load(config.data)):
        raise StudyError(f"group '{g.name}': {failures[0]}")
    made = []
    for p in chosen:
        out = work / f"{p.folder.name}.onnx"
        export_run(p.folder, None, out, force=True)  # whatever lies there may be of an older run
        made.append(out)
    return [m for m, p in zip(made, chosen, strict=True) if p.config.model.weights != "float"]
