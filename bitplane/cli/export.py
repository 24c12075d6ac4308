"""`bitplane export`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from bitplane.cli.options import DATA_SETS, Count, JsonFile, OutputPath, Pixel, Side, Spread
from bitplane.cli.output import UsageError, say, write_json

if TYPE_CHECKING:
    from bitplane.export import ExportReport

FILES = (".onnx", ".safetensors", ".pth", ".pt")
"""Names of files; any other SOURCE is the folder of a run."""


@dataclass(frozen=True)
class SampleOptions:
    """The images for calibration and the check.

    Attributes:
        data: digits, cifar10, cifar100, or the path of a folder train/<class>/* or <class>/*.
        data_dir: where torchvision's CIFAR files are, or are put.
        size: resize a folder's images to this side, or to this height and width; default: theirs, which must then agree.
        channels: make a folder's images grey (1) or RGB (3).
        download: download CIFAR if it is not in `data_dir`.
    """

    data: str | None = None
    data_dir: str = "data"
    size: tuple[Side, ...] = ()
    channels: Literal[1, 3] = 3
    download: bool = False


@dataclass(frozen=True)
class Options:
    """Export SOURCE to one ONNX file that is checked before it is written.

    Attributes:
        source: folder of a finished run, an ONNX or QONNX file (.onnx), or a torchvision ResNet-18, 34 or 50 (.safetensors).
        output: the file to write.
        model: of a run whose network a Python file makes, that file and function, FILE.py:FUNCTION: exporting runs it.
        form: packed (bit-planes; opens anywhere ONNX functions do), inlined (the same, functions expanded), dequantized (plain
            float weights), or qonnx.
        weights: turn float convolutions between the first and the last layer into this level set, after training.
        activations: bits of the activations that low-bit convolutions read, where training left them float.
        calibration: how the steps of those activations are chosen.
        correction: what is corrected in layers that were quantized after training.
        keep: names or patterns (layer4.*) of layers to leave as they are.
        edges: bits of the first and the last layer.
        images: images for calibration and the check; a run has its own.
        samples: images to use.
        mean: of the pixels, as SOURCE was trained on (pixel - mean) / std; one number, or one a channel.
        std: of the pixels.
        force: replace OUTPUT if it exists.
        allow_unrunnable: also write a packed file that bitplane.runtime cannot run, because of an operator kept from SOURCE.
        sign: private EC key (PEM, without a password) to sign OUTPUT by; the signature is OUTPUT.sig.
        json: write the report to this file.
    """

    source: Positional[Path]
    output: OutputPath
    model: str = ""
    form: Literal["packed", "inlined", "dequantized", "qonnx"] = "packed"
    weights: Literal["keep", "binary", "ternary", "quaternary", "int8"] = "keep"
    activations: Literal[32, 8, 4, 2] = 8
    calibration: Literal["mse", "minmax", "percentile"] = "mse"
    correction: Literal["none", "bias", "statistics"] = "statistics"
    keep: tuple[str, ...] = ()
    edges: Literal[8, 32] = 8
    images: SampleOptions = field(default_factory=SampleOptions)
    samples: Count = 256
    mean: tuple[Pixel, ...] = ()
    std: tuple[Spread, ...] = ()
    force: bool = False
    allow_unrunnable: bool = False
    sign: Annotated[Path | None, arg(metavar="KEY")] = None
    json: JsonFile = None


def run(options: Options) -> None:
    """Export, and say what computes in floating point."""
    report = _export(options)
    say(
        f"{report.path}: {report.bytes} bytes; onnxruntime agrees with the source on {100 * report.top1_agreement:.2f} % of "
        f"{report.samples} images, largest logit difference {report.max_logit_difference:.3g}"
    )
    if options.sign is not None:
        say(f"  signed by {options.sign}: {report.path}.sig")
    if options.form == "packed" and report.unrunnable:
        say(f"  bitplane.runtime does not run it: {report.unrunnable}")
    if options.form in ("packed", "inlined"):
        for layer in report.layers:
            if layer.reason and layer.operator != "Gemm":
                say(f"  {layer.name} computes in floating point: {layer.reason}")
    write_json(options.json, asdict(report))


def _export(o: Options) -> "ExportReport":
    from bitplane.export import Quantization, export_file, export_run

    how = Quantization(o.weights, o.activations, o.calibration, o.correction, o.keep, o.edges)
    if o.source.suffix not in FILES:
        options: dict[str, Any] = {"force": o.force, "allow_unrunnable": o.allow_unrunnable, "sign_key": o.sign}
        options |= {"count": o.samples, "model": o.model}
        return export_run(o.source, None, o.output, quantization=how, form=o.form, **options)
    if o.model:
        raise UsageError(f"--model {o.model}: is for the folder of a run, {o.source} is a file")
    if o.images.data is None:
        raise UsageError(f"{o.source}: give --data, the images to calibrate and check on")
    if bool(o.mean) != bool(o.std):
        raise UsageError("--mean and --std go together; both are in pixels, 0 to 255")
    images, name = _samples(o.images, o.images.data, o.samples)
    common: dict[str, Any] = {"quantization": how, "form": o.form, "normalize": (o.mean, o.std) if o.mean else None}
    common |= {"force": o.force, "allow_unrunnable": o.allow_unrunnable, "sign_key": o.sign}
    return export_file(o.source, images, o.output, metadata={"dataset": name}, **common)


def _samples(o: SampleOptions, data: str, count: int) -> tuple[Any, str]:
    """Images (a tensor) spread evenly over the training split, and the name of the data set."""
    from bitplane.export import evenly_spaced
    from bitplane.pixels import PixelForm
    from bitplane.train.config import DataConfig
    from bitplane.train.data import load_data
    from bitplane.train.data.folder import sample_folder

    root = Path(data)
    if data in DATA_SETS or not root.is_dir():
        loaded = load_data(DataConfig(data, o.data_dir, o.download))
        return evenly_spaced(loaded.train.images, count), loaded.name
    if len(o.size) > 2:
        raise UsageError(f"--size {' '.join(map(str, o.size))}: give one side, or height and width")
    size = (o.size[0], o.size[-1]) if o.size else None
    return sample_folder(root, count, PixelForm(size, o.channels)), root.absolute().name
