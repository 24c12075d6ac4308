"""`bitplane bench`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from bitplane.cli.options import Count, DataOptions, JsonFile
from bitplane.cli.output import UsageError, say, say_table, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from bitplane.benchmarks.results import Group


@dataclass(frozen=True)
class Options:
    """Measure packed files beside their float twin in other engines: latency, throughput, accuracy, cold start, memory.

    `--kernels`, `--training`, `--instructions` and `--profile` measure something else instead, one at a time.

    Attributes:
        models: packed files.
        kernels: measure the popcount kernels instead, beside a register-only loop.
        training: measure what each method adds to a training step instead.
        instructions: count the instructions of one call of each packed file instead (needs valgrind): the same on any day.
        profile: time every step of one packed file instead, and write it as a Chrome trace to this file.
        float_model: float32 ONNX file of the same architecture, `bitplane export` of a run with --weights float.
        images: data set for accuracy and calibration; without `data`, latency on random images only.
        threads: thread counts; default: one and all.
        batch_size: images of a call where throughput is measured.
        against: engines to compare with, as `bitplane study` names them; those that run a float network need --float-model.
        json: write everything to this file, as `bitplane study` does.
        plot: draw accuracy over latency into this image (PNG).
    """

    models: Positional[tuple[Path, ...]] = ()
    kernels: bool = False
    training: bool = False
    instructions: bool = False
    profile: Path | None = None
    float_model: Path | None = None
    images: DataOptions = field(default_factory=DataOptions)
    threads: tuple[Count, ...] = ()
    batch_size: Count = 32
    against: tuple[str, ...] = ("onnxruntime float32", "onnxruntime int8")
    json: JsonFile = None
    plot: Path | None = None


def run(options: Options) -> None:
    """Measure what was asked for."""
    mode, models = _mode(options), options.models
    if mode in ("", "instructions") and not models:
        raise UsageError("bench needs at least one packed file, or --kernels or --training")
    if mode == "profile" and len(models) != 1:
        raise UsageError(f"--profile takes one packed file, {len(models)} were given")
    for file in [*models, *([options.float_model] if options.float_model else [])]:
        if not file.is_file():
            raise UsageError(f"{file}: no such file")
    MODES[mode][0](options)


def _mode(options: Options) -> str:
    """The measurement that was asked for: the name of its option, or "" for the comparison.

    Raises:
        UsageError: two were asked for, or one with an option that it does not use.
    """
    default = Options()
    given = [f.name for f in fields(Options) if getattr(options, f.name) != getattr(default, f.name)]
    modes = [name for name in given if name in MODES]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} are different measurements; give one of them")
    mode = modes[0] if modes else ""
    for name in given if mode else ():
        if name != mode and name not in MODES[mode][1]:
            shown = {"models": "packed files", "images": "--data"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"--{mode} does not use {shown}; leave it out")
    return mode


def _kernels(options: Options) -> None:
    from bitplane.benchmarks.measuring.kernels import measure_kernels

    rows = measure_kernels()
    for r in rows:
        say(
            f"{r.layer:34} {r.us:8.2f} us {r.gmacs:8.0f} G multiply-adds/s "
            f"{100 * r.of_limit:5.1f} % of the register loop of popcounts  {r.product}"
        )
    write_json(options.json, [asdict(r) for r in rows])


def _training(options: Options) -> None:
    from bitplane.benchmarks.measuring.training import measure_training

    rows = measure_training(compiled=True)
    for r in rows:
        added = f"  adds {100 * r.added:5.1f} % to a step" if r.added is not None else ""
        say(f"{r.part:30} {r.ms:8.2f} ms{added}")
    write_json(options.json, [asdict(r) for r in rows])


def _instructions(options: Options) -> None:
    from bitplane.benchmarks.measuring.instructions import count_instructions

    counted = count_instructions(options.models)
    for file, count in counted.items():
        say(f"{file}: {count / 1e6:.3f} million instructions a call")
    write_json(options.json, {"instructions": {str(file): round(count) for file, count in counted.items()}})


def _profile(options: Options) -> None:
    from bitplane.benchmarks.measuring.profile import profile

    assert options.profile is not None
    found = profile(options.models[0])
    write_text(options.profile, found.trace)
    lines = [
        (
            s.name,
            f"{s.us:.2f}",
            f"{100 * s.share:.1f} %",
            f"{s.multiply_adds / 1e6:.2f}" if s.multiply_adds else "",
            f"{s.gmacs:.0f}" if s.gmacs else "",
            f"{100 * s.of_limit:.0f} %" if s.of_limit is not None else "",
            s.kernel,
        )
        for s in found.steps
    ]
    heads = ("step", "us", "share", "M mul-adds", "G mul-adds/s", "of the register loop", "kernel")
    say_table(heads, lines, right={1, 2, 3, 4, 5})
    total = sum(s.us for s in found.steps)
    say(f"{total:.1f} us in all steps, {found.call_us:.1f} us in a whole call from Python")
    say(f"{options.profile} opens in chrome://tracing and Perfetto")
    write_json(options.json, {"steps": [asdict(s) for s in found.steps], "steps_us": total, "call_us": found.call_us})


def _compare(options: Options) -> None:
    from bitplane.benchmarks.compare import compare
    from bitplane.benchmarks.description import Measure
    from bitplane.benchmarks.images import ImageSource
    from bitplane.benchmarks.report.plot import draw
    from bitplane.benchmarks.results import one_group, to_json

    if options.plot and options.images.data is None:
        raise UsageError(f"{options.plot}: a picture of accuracy over latency needs --data")
    images = ImageSource(options.images.load).images if options.images.data is not None else None
    how = Measure(threads=list(options.threads), starts=1, batch_size=options.batch_size)
    found = compare(options.models, options.float_model, options.against, images, how)
    say_group(found)
    if options.json:
        write_text(options.json, to_json(one_group(found)))
    if options.plot:
        write_bytes(options.plot, draw(found))


def say_group(g: "Group") -> None:
    """Print a group's rows."""
    from bitplane.benchmarks.report.tables import TEXT, cells, columns

    heads = columns(g)
    say_table(heads, [cells(g, r) for r in g.rows], {i for i, h in enumerate(heads) if h not in TEXT})


MODES: dict[str, tuple[Callable[[Options], None], set[str]]] = {
    "": (_compare, set()),
    "kernels": (_kernels, {"json"}),
    "training": (_training, {"json"}),
    "instructions": (_instructions, {"models", "json"}),
    "profile": (_profile, {"models", "json"}),
}
"""Option that asks for a measurement: what does it, and which other options it uses; "" is the comparison, which uses all."""
