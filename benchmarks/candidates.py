"""What takes turns in a group: a network in an engine."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitplane.benchmarks.classes import match_classes
from bitplane.benchmarks.conversion import convert, file_bytes
from bitplane.benchmarks.description import GroupPlan, find_files
from bitplane.benchmarks.errors import PeerError, StudyError
from bitplane.benchmarks.images import CALIBRATION, Images, LabeledImages, random_images
from bitplane.benchmarks.networks import Network, find_networks
from bitplane.benchmarks.peers import LAYER_PEERS, OWN, PEERS, missing_packages
from bitplane.benchmarks.results import Row

if TYPE_CHECKING:
    from bitplane.train.data import Dataset


@dataclass(frozen=True)
class Sources:
    """Where a study's files and images come from.

    Attributes:
        folder: of the description: what its paths are relative to.
        work: folder for files that are made; what is there is used again.
        images: images of a data set's name.
        datasets: data set of a name, for groups that train.
    """

    folder: Path
    work: Path
    images: Callable[[str], Images]
    datasets: "Callable[[str], Dataset] | None" = None


@dataclass(frozen=True)
class Candidate:
    """A network in an engine: a row, but for the thread count and the measurements.

    Attributes:
        row: what is known before measuring.
        spec: what its worker is told, but for threads, purpose and batch size.
    """

    row: Row
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Unique in a group."""
        return row_name(self.row)


def row_name(row: Row) -> str:
    """What a candidate and its rows are called in a group."""
    return f"{row.network} | {row.engine}"


def network_candidates(g: GroupPlan, sources: Sources, temporary: Path) -> tuple[Images, list[Candidate]]:
    """The images of a group, and every engine on every network that it runs.

    Args:
        g: the group.
        sources: its files and images.
        temporary: folder for the images, which workers read.
    """
    networks, twin = find_networks(g, sources.folder, sources.work, sources.datasets)
    images = sources.images(g.data) if g.data else random_images(networks[0].shape)
    arrays = {"images": images.calibration[:CALIBRATION]}
    if images.test is not None:
        pixels, labels = _matched(images.test, images, networks)
        arrays |= {"test_images": pixels, "test_labels": labels}
    for name, value in arrays.items():
        np.save(temporary / f"{name}.npy", value)
    common = {name: str(temporary / f"{name}.npy") for name in arrays}
    shared = {f.resolve() for f in find_files(sources.folder, g.shared, f"group '{g.name}'")}
    found: list[Candidate] = []
    for engine in g.engines or PEERS:
        if PEERS[engine].source == "packed":
            mine = networks if engine == OWN else [n for n in networks if n.file.resolve() in shared]
        else:
            mine = [_twin(networks, twin, PEERS[engine].bits)] if twin is not None else []
        found += [_candidate(n, engine, sources.work, common) for n in mine]
    return images, found


def _matched(test: LabeledImages, images: Images, networks: list[Network]) -> LabeledImages:
    """The test images with the networks' labels: classes are matched by name.

    Raises:
        StudyError: a class of the images is none of a network's, or networks order their classes differently.
    """
    pixels, labels = test
    found = [
        match_classes(images.classes, n.classes, len(n.classes), images.name, n.file.name)[labels]
        for n in networks
        if images.classes and n.classes
    ]
    if any(not np.array_equal(other, found[0]) for other in found):
        raise StudyError(
            f"the networks {', '.join(n.file.name for n in networks)} order the classes of {images.name} differently"
        )
    return pixels, found[0] if found else labels


def _twin(networks: list[Network], file: Path, bits: int) -> Network:
    """The float twin as an engine runs it."""
    models = {n.model for n in networks}
    name = models.pop() if len(models) == 1 else "float twin"
    return Network(name, file, "float32" if bits == 32 else f"int{bits}", bits)


def _candidate(network: Network, engine: str, work: Path, common: dict[str, str]) -> Candidate:
    peer, source = PEERS[engine], network.file
    row = Row(network.name, engine, 0, network.weights, network.activations, source.name, source.stat().st_size)
    if missing := missing_packages(peer):
        return Candidate(replace(row, error=f"not installed: pip install {missing}", bytes=0, file=""), {})
    try:
        file = convert(peer.conversion, source, Path(common["images"]), work) if peer.conversion else source
    except PeerError as e:
        return Candidate(replace(row, error=str(e), bytes=0, file=""), {})
    spec = {"module": peer.module, "variant": peer.variant, "file": str(file), **common}
    return Candidate(replace(row, file=file.name, bytes=file_bytes(file)), spec)


def layer_candidates(g: GroupPlan) -> list[Candidate]:
    """Every engine on every layer; see `peers/layers.py`."""
    found: list[Candidate] = []
    for layer in g.layers:
        levels, _, bits = layer.partition(" ")[0].partition("/")
        for name in g.engines or LAYER_PEERS:
            peer = LAYER_PEERS[name]
            if not re.fullmatch(peer.takes, f"{levels}/{bits}"):
                continue
            row = Row(f"3x3 {layer}", name, 0, levels, int(bits), "", 0)
            missing = missing_packages(peer)
            spec = {"module": peer.module, "variant": peer.variant, "file": layer, "images": ""}
            found.append(Candidate(replace(row, error=f"not installed: pip install {missing}" if missing else ""), spec))
    return found
