"""`bitplane demo`."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bitplane.cli.bench import say_group
from bitplane.cli.options import Count, JsonFile
from bitplane.cli.output import make_folder, say, write_text


@dataclass(frozen=True)
class Options:
    """Train a float ResNet-20 on scikit-learn's digits and a ternary one from it, export both, check, and compare them.

    Attributes:
        output: folder for runs and files; default: a new temporary one.
        epochs: epochs of each of the two.
        json: write the comparison to this file.
    """

    output: Path | None = None
    epochs: Count = 30
    json: JsonFile = None


def run(options: Options) -> None:
    """Train, export and compare."""
    from bitplane.benchmarks.compare import compare
    from bitplane.benchmarks.description import Measure
    from bitplane.benchmarks.images import ImageSource
    from bitplane.benchmarks.results import one_group, to_json
    from bitplane.train.config import DataConfig
    from bitplane.train.data import load_data

    if options.output:
        make_folder(options.output)
    start = time.perf_counter()
    folder = options.output or Path(tempfile.mkdtemp(prefix="bitplane-demo-"))
    twin = _train_and_export("float", folder, options.epochs)
    packed = _train_and_export("ternary", folder, options.epochs)
    images = ImageSource(lambda _: load_data(DataConfig())).images
    against = ["onnxruntime float32", "onnxruntime int8"]
    found = compare([packed], twin, against, images, Measure(threads=[1], starts=1))
    say_group(found)
    say(f"{time.perf_counter() - start:.0f} s; everything is in {folder}; next: bitplane inspect {packed}")
    if options.json:
        write_text(options.json, to_json(one_group(found)))


def _train_and_export(name: str, folder: Path, epochs: int) -> Path:
    from bitplane.export import export_run
    from bitplane.train.config import ModelConfig, TrainConfig
    from bitplane.train.loop import train

    say(f"training {name} ({epochs} epochs)")
    ternary = name == "ternary"
    model = ModelConfig(weights="ternary", activations=2) if ternary else ModelConfig(weights="float", activations=32)
    config = TrainConfig(model=model, epochs=epochs, batch_size=64)
    train(config, folder / name, init=folder / "float" if ternary else None)
    report = export_run(folder / name, None, folder / f"{name}.onnx", force=True)
    say(
        f"{report.path}: {report.bytes} bytes, agrees with PyTorch on {100 * report.top1_agreement:.1f} % of "
        f"{report.samples} images"
    )
    return Path(report.path)
