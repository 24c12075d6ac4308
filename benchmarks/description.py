"""A study's description: a TOML file that names networks, engines and how long to measure.

title = "..."
about = "..."
[measure]                                   # all optional
threads = [1, 2]
rounds = 20
seconds = 0.05                              # of a turn
starts = 3                                  # cold starts
batch_size = 32                             # offline: images of a call
[[group]]
name = "ResNet-20 on CIFAR-10"
data = "cifar10"                            # accuracy and calibration; without it, latency only, on random images
float = "../examples/float.onnx"            # the float32 network: what other engines run, as it is and in int8
packed = ["../examples/*-ternary2.onnx"]    # packed files; paths and patterns are relative to the description
shared = ["../examples/*-ternary2.onnx"]    # those of them that other engines run too
engines = ["onnxruntime float32"]           # default: all of `bitplane.benchmarks.peers`
[[group]]
name = "ResNet-18 at 224x224"
model = "resnet18"                          # untrained networks of this architecture: latency only
size = 224
low_bit = ["binary/1", "ternary/2"]
[[group]]
name = "trained here"
experiment = "experiments/deploy.toml"      # runs of a description of `bitplane experiments`: missing ones are trained first
runs = "runs/deploy"
only = ["low-bit/*"]
[[group]]
name = "layers"
layers = ["binary/1 64x56", "ternary/2 128x28"]     # 3x3 convolutions by themselves: channels x side
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.measuring.machine import processors
from bitplane.benchmarks.peers import LAYER_PEERS, PEERS
from bitplane.documents import Kind, read_toml
from bitplane.format.limits import MAX_SIDE

DESCRIPTION = Kind("a study description", "help(bitplane.benchmarks.description) shows one", StudyError)

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]

LOW_BIT = re.compile(r"(binary|ternary|quaternary)/(1|2|4|8)")
LARGEST_LAYER = 4096
LAYER = re.compile(r"(binary|ternary|quaternary)/(1|2|4) (\d{1,9})x(\d{1,9})", re.ASCII)


class Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to measure.

    Attributes:
        threads: thread counts; empty: one and all.
        rounds: turns of each network in each engine.
        seconds: of a turn.
        starts: cold starts of each.
        batch_size: images of an offline call.
    """

    threads: list[Positive] = []
    rounds: Positive = 20
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 0.05
    starts: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 3
    batch_size: Positive = 32

    def counts(self) -> list[int]:
        """The thread counts of this machine."""
        return self.threads or sorted({1, processors()})


class GroupPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Networks that are compared; see the module's docstring."""

    name: str
    data: str = ""
    float: str = ""
    packed: list[str] = []
    shared: list[str] = []
    engines: list[str] = []
    model: str = ""
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)] = 224
    low_bit: list[str] = []
    experiment: str = ""
    runs: str = ""
    only: list[str] = []
    epochs: Positive | None = None
    layers: list[str] = []
    baseline: str = ""

    @property
    def table(self) -> dict[str, object]:
        """The engines of this kind of group."""
        return dict(LAYER_PEERS if self.layers else PEERS)

    def base(self) -> str:
        """Engine that others are compared with; layers are compared by their multiply-adds a second."""
        return self.baseline or ("" if self.layers else "onnxruntime float32")


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A description as read."""

    title: str
    group: list[GroupPlan]
    about: str = ""
    measure: Measure = Measure()

    def with_rounds(self, rounds: int) -> "Description":
        """The same with another number of rounds."""
        return msgspec.structs.replace(self, measure=msgspec.structs.replace(self.measure, rounds=rounds))


def read_description(path: Path) -> Description:
    """Read and check a description.

    Raises:
        StudyError: missing, no TOML, or a field is unknown, missing or has a value that cannot be used.
    """
    description = read_toml(path, Description, DESCRIPTION)
    for g in description.group:
        check_group(g, str(path))
    return description


def check_group(g: GroupPlan, path: str) -> None:
    """Raise StudyError for a group that cannot be measured."""
    where = f"{path}: group '{g.name}'"
    kinds = [k for k, v in {"packed": g.packed, "model": g.model, "experiment": g.experiment, "layers": g.layers}.items() if v]
    if len(kinds) != 1:
        raise StudyError(f"{where} needs exactly one of `packed`, `model`, `experiment`, `layers`; it has {kinds or 'none'}")
    for e in [*g.engines, g.base()]:
        if e and e not in g.table:
            raise StudyError(f"{where}: no engine is called '{e}'; there are {', '.join(g.table)}")
    if g.model and not g.low_bit:
        raise StudyError(f'{where}: `model` needs `low_bit`, such as ["ternary/2"]')
    if g.experiment and not g.runs:
        raise StudyError(f"{where}: `experiment` needs `runs`, the folder of its runs")
    for form, entries in ((LOW_BIT, g.low_bit), (LAYER, g.layers)):
        for entry in entries:
            if not form.fullmatch(entry):
                raise StudyError(f"{where}: '{entry}' is not of the form {'LEVELS/BITS' + ' CxS' * (form is LAYER)}")
            if form is LAYER and not all(1 <= int(n) <= LARGEST_LAYER for n in re.findall(r"\d+", entry)[1:]):
                raise StudyError(f"{where}: '{entry}' must have 1 to {LARGEST_LAYER} channels and pixels a side")


def find_files(folder: Path, patterns: list[str], where: str) -> list[Path]:
    """The files that paths or patterns name, relative to a description's folder or absolute, each once, in the patterns' order.

    Raises:
        StudyError: a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        whole = folder / pattern
        try:
            matched = [whole] if whole.is_file() else sorted(_glob(folder, Path(pattern)))
        except (OSError, ValueError, NotImplementedError, IndexError) as e:
            raise StudyError(f"{where}: '{pattern}' is no pattern of files ({e})") from e
        if not any(p.is_file() for p in matched):
            raise StudyError(f"{where}: no file matches '{pattern}'")
        found |= dict.fromkeys(p for p in matched if p.is_file())
    return list(found)


def _glob(folder: Path, pattern: Path) -> Iterator[Path]:
    if pattern.is_absolute():
        return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    return folder.glob(str(pattern))
