"""The commands; each imports the rooms it needs when it runs."""

import json as json_module
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from bitplane.cli.output import UsageError, layer_table, table, write_json, write_text


def export(
    source: Positional[Path],
    output: Annotated[Path, arg(aliases=["-o"])],
    form: Literal["packed", "inlined", "dequantized", "qonnx"] = "packed",
    weights: Literal["keep", "binary", "ternary", "quaternary", "int8"] = "keep",
    activations: Literal[32, 8, 4, 2] = 8,
    calibration: Literal["mse", "minmax", "percentile"] = "mse",
    correction: Literal["none", "bias", "statistics"] = "statistics",
    keep: tuple[str, ...] = (),
    edges: Literal[8, 32] = 8,
    data: str | None = None,
    data_dir: str = "data",
    size: int = 0,
    samples: int = 256,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    force: bool = False,
    json: Path | None = None,
) -> None:
    """Export SOURCE to one ONNX file that is checked before it is written.

    Args:
        source: folder of a finished run, an ONNX or QONNX file (.onnx), or a torchvision ResNet-18, 34 or 50 (.safetensors).
        output: the file to write.
        form: packed (bit-planes; opens anywhere ONNX functions do), inlined (the same, functions expanded), dequantized (plain
            float weights), or qonnx.
        weights: turn float convolutions between the first and the last layer into this level set, after training.
        activations: bits of the activations that low-bit convolutions read, where training left them float.
        calibration: how the steps of those activations are chosen.
        correction: what is corrected in layers that were quantized after training.
        keep: names or patterns (layer4.*) of layers to leave as they are.
        edges: bits of the first and the last layer.
        data: images for calibration and the check, as in `train`; a run has its own.
        data_dir: where CIFAR is.
        size: resize a folder's images to this side.
        samples: images to use.
        mean: of the pixels, as SOURCE was trained on (pixel - mean) / std; one number, or one a channel.
        std: of the pixels.
        force: replace OUTPUT if it exists.
        json: write the report to this file.
    """
    from bitplane.export import Quantization, evenly, export_file, export_run

    how = Quantization(weights, activations, calibration, correction, keep, edges)
    if source.suffix in (".onnx", ".safetensors", ".pth", ".pt"):
        if data is None:
            raise UsageError(f"{source}: give --data, the images to calibrate and check on")
        if bool(mean) != bool(std):
            raise UsageError("--mean and --std go together; both are in pixels, 0 to 255")
        from bitplane.train.config import DataConfig
        from bitplane.train.data import load_data

        loaded = load_data(DataConfig(data, data_dir, size=size))
        images = evenly(loaded.train.images, samples)
        normalize = (mean, std) if mean else None
        metadata = {"dataset": loaded.name}
        report = export_file(
            source, output, images, quantization=how, form=form, normalize=normalize, metadata=metadata, force=force
        )
    else:
        report = export_run(source, output, samples, quantization=how, form=form, force=force)
    print(
        f"{report.path}: {report.bytes} bytes; onnxruntime agrees with the source on {100 * report.top1_agreement:.2f} % of "
        f"{report.samples} images, largest logit difference {report.max_logit_difference:.3g}"
    )
    if form in ("packed", "inlined"):
        for layer in report.layers:
            if layer.reason and layer.operator != "Gemm":
                print(f"  {layer.name} computes in floating point: {layer.reason}")
    write_json(json, asdict(report))


def evaluate(
    model: Positional[Path],
    data: str = "digits",
    engine: Literal["bitplane", "onnxruntime"] = "bitplane",
    agreement: int = 0,
    data_dir: str = "data",
    size: int = 0,
    json: Path | None = None,
) -> None:
    """Measure the accuracy of a file on the test split of a data set.

    Args:
        model: a packed file (or, with onnxruntime, a float one).
        data: as in `train`.
        engine: what runs it.
        agreement: also compare every activation code, feature and logit of both engines on this many images.
        data_dir: where CIFAR is.
        size: resize a folder's images to this side.
        json: write the result to this file.
    """
    from bitplane.benchmarks.measure import accuracy
    from bitplane.train.config import DataConfig
    from bitplane.train.data import load_data

    session = _session(model, engine)
    test = load_data(DataConfig(data, data_dir, size=size)).test
    top1 = accuracy(lambda x: session.run(None, {"input": x})[0], test.images.numpy(), test.labels.numpy())
    print(f"{model}: top-1 {100 * top1:.2f} % on {len(test.labels)} images ({engine})")
    document: dict[str, Any] = {"top1": top1, "images": len(test.labels), "engine": engine}
    if agreement > 0:
        from bitplane.benchmarks.agreement import agreement as compare_engines

        picked = np.linspace(0, len(test.labels) - 1, min(agreement, len(test.labels))).astype(int)
        found = compare_engines(model, test.images.numpy()[picked])
        print(
            f"bitplane and onnxruntime on {found.images} images: {found.different_codes} of {found.codes} activation codes and "
            f"{found.different_features} of {found.features} features differ; largest logit difference "
            f"{found.largest_logit_difference:.2g}; same class on {100 * found.same_class:.2f} %"
        )
        document["agreement"] = asdict(found)
    write_json(json, document)


def predict(model: Positional[Path], images: Positional[tuple[Path, ...]], json: Path | None = None) -> None:
    """Classify image files.

    Args:
        model: a packed file.
        images: image files.
        json: write the result to this file.
    """
    session = _session(model, "bitplane")
    meta = session.get_modelmeta().custom_metadata_map
    classes, form = json_module.loads(meta["bitplane.classes"]), json_module.loads(meta["bitplane.input"])
    results = []
    for path in images:
        logits = session.run(None, {"input": _read_image(path, form)[None]})[0][0].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        top = p.argsort()[::-1][:3]
        print(f"{path}: " + ", ".join(f"{classes[i]} {100 * p[i]:.1f} %" for i in top))
        results.append({"image": str(path), "top": [{"class": classes[i], "probability": float(p[i])} for i in top]})
    write_json(json, results)


def inspect(model: Positional[Path], json: Path | None = None) -> None:
    """Show what a packed file holds and which kernel runs each layer.

    Args:
        model: a packed file.
        json: write it to this file.
    """
    from bitplane.runtime import model_cost

    session = _session(model, "bitplane")
    meta, layers = dict(session.get_modelmeta().custom_metadata_map), session.layers()
    for key, value in sorted(meta.items()):
        print(f"{key.removeprefix('bitplane.'):20} {value}")
    print(f"\n{layer_table(layers)}\n")
    print(
        "popcount, dot, look-up: thousands of vector instructions that each product would take here (runtime/cost.py); the plan"
    )
    print("takes the one that is cheapest for all layers that read a tensor.")
    cost = model_cost(model)
    print(
        f"one image on {cost.cpu}: {cost.multiply_adds / 1e6:.2f} M multiply-adds, {cost.bytes_moved / 1e6:.3f} MB moved, "
        f"{cost.instructions / 1e6:.3f} M instructions, as runtime/totals.py models them"
    )
    size = model.stat().st_size
    plain = sum(layer.float_bytes for layer in layers)
    print(f"file: {size} bytes, {plain / size:.1f}x smaller than its float32 weights")
    accuracy = json_module.loads(meta.get("bitplane.accuracy") or "{}")
    if "test_top1" in accuracy:
        print(f"accuracy in training: {100 * accuracy['test_top1']:.2f} % top-1 on {meta.get('bitplane.dataset', '')}")
    document = {
        "metadata": meta,
        "layers": [asdict(layer) for layer in layers],
        "file_bytes": size,
        "kernels": session.kernels(),
        "cost": asdict(cost),
    }
    write_json(json, document)


def bench(
    models: Positional[tuple[Path, ...]] = (),
    kernels: bool = False,
    training: bool = False,
    instructions: bool = False,
    profile: Path | None = None,
    float_model: Path | None = None,
    data: str | None = None,
    data_dir: str = "data",
    threads: tuple[int, ...] = (),
    batch: int = 32,
    against: tuple[str, ...] = ("onnxruntime float32", "onnxruntime int8"),
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure packed files beside their float twin in other engines: latency, throughput, accuracy, cold start, memory.

    Args:
        models: packed files.
        kernels: measure the popcount kernels instead, beside a register-only loop.
        training: measure what each method adds to a training step instead.
        profile: time every step of one packed file instead, and write it as a Chrome trace to this file.
        instructions: count the instructions of one call of each packed file instead (needs valgrind): the same on any day.
        float_model: float32 ONNX file of the same architecture, `bitplane export` of a run with --weights float.
        data: data set for accuracy and calibration, as in `train`; without it, latency on random images only.
        data_dir: where CIFAR is.
        threads: thread counts; default: one and all.
        batch: images of a call where throughput is measured.
        against: engines to compare with, as `bitplane study` names them; those that run a float network need --float-model.
        json: write everything to this file, as `bitplane study` does.
        plot: draw accuracy over latency into this image.
    """
    if kernels:
        from bitplane.benchmarks.roofline import measure_kernels

        rows = measure_kernels()
        for r in rows:
            print(
                f"{r['layer']:34} {r['us']:8.2f} us {r['gmacs']:8.0f} G multiply-adds/s "
                f"{100 * r['of_limit']:5.1f} % of the register loop of popcounts  {r['kernel'].partition(',')[0]}"
            )
        return write_json(json, rows)
    if training:
        from bitplane.benchmarks.training import measure_training

        rows = measure_training(compiled=True)
        for r in rows:
            added = f"  adds {100 * r['added']:5.1f} % to a step" if "added" in r else ""
            print(f"{r['part']:30} {r['ms']:8.2f} ms{added}")
        return write_json(json, rows)
    if not models:
        raise UsageError("bench needs at least one packed file, --kernels or --training")
    if profile:
        if len(models) != 1:
            raise UsageError("--profile takes one packed file")
        return _profile(models[0], profile, json)
    if instructions:
        from bitplane.benchmarks.instructions import count_instructions

        counted = count_instructions(list(models))
        for file in models:
            print(f"{file}: {counted[file.name] / 1e6:.3f} million instructions a call")
        return write_json(json, {"instructions": {str(f): round(counted[f.name]) for f in models}})
    from bitplane.benchmarks.picture import draw, has_picture
    from bitplane.benchmarks.results import to_json
    from bitplane.cli.study import compare, loader, text_table

    for file in [*models, *([float_model] if float_model else [])]:
        if not file.is_file():
            raise UsageError(f"{file}: no such file")
    images = loader(data, data_dir) if data is not None else None
    found = compare(list(models), float_model, list(against), images, threads, batch, starts=1)
    print(text_table(found.groups[0]))
    if json:
        write_text(json, to_json(found))
    if plot:
        if not has_picture(found.groups[0]):
            raise UsageError(f"{plot}: a picture of accuracy over latency needs --data")
        draw(found.groups[0], plot)
    return None


def _profile(model: Path, trace: Path, json: Path | None) -> None:
    from bitplane.benchmarks.roofline import profile

    found = profile(model)
    write_text(trace, found.trace)
    lines = [
        (
            r["name"],
            f"{r['us']:.2f}",
            f"{100 * r['share']:.1f} %",
            f"{r['multiply_adds'] / 1e6:.2f}" if r["multiply_adds"] else "",
            f"{r['gmacs']:.0f}" if r["gmacs"] else "",
            f"{100 * r['of_limit']:.0f} %" if "of_limit" in r else "",
            r["kernel"],
        )
        for r in found.rows
    ]
    heads = ("step", "us", "share", "M mul-adds", "G mul-adds/s", "of the register loop", "kernel")
    print(table(heads, lines, right={1, 2, 3, 4, 5}))
    steps = sum(r["us"] for r in found.rows)
    print(f"{steps:.1f} us in all steps, {found.call_us:.1f} us in a whole call from Python")
    print(f"{trace} opens in chrome://tracing and Perfetto")
    write_json(json, {"steps": found.rows, "steps_us": steps, "call_us": found.call_us})


def demo(output: Path | None = None, epochs: int = 30, json: Path | None = None) -> None:
    """Train a float ResNet-20 on scikit-learn's digits and a ternary one from it, export both, check, and compare them.

    Args:
        output: folder for runs and files; default: a new temporary one.
        epochs: epochs of each of the two.
        json: write the comparison to this file.
    """
    from bitplane.benchmarks.networks import Images
    from bitplane.benchmarks.results import to_json
    from bitplane.cli.study import compare, text_table
    from bitplane.export import export_run
    from bitplane.train.config import DataConfig, ModelConfig, TrainConfig
    from bitplane.train.data import load_data
    from bitplane.train.loop import train as run_training

    start = time.perf_counter()
    folder = output or Path(tempfile.mkdtemp(prefix="bitplane-demo-"))
    files = {}
    for name, model in {
        "float": ModelConfig(weights="float", activations=32),
        "ternary": ModelConfig(weights="ternary", activations=2),
    }.items():
        print(f"training {name} ({epochs} epochs)")
        config = TrainConfig(model=model, epochs=epochs, batch_size=64)
        run_training(config, folder / name, init=folder / "float" if name == "ternary" else None)
        report = export_run(folder / name, folder / f"{name}.onnx", force=True)
        files[name] = report.path
        print(
            f"{report.path}: {report.bytes} bytes, "
            f"agrees with PyTorch on {100 * report.top1_agreement:.1f} % of {report.samples} images"
        )
    data = load_data(DataConfig())
    test = (data.test.images.numpy(), data.test.labels.numpy())
    images = Images("digits", data.train.images[:64].numpy(), test)
    against = ["onnxruntime float32", "onnxruntime int8"]
    found = compare([Path(files["ternary"])], Path(files["float"]), against, lambda _: images, (1,), 32, starts=1)
    print(text_table(found.groups[0]))
    print(f"{time.perf_counter() - start:.0f} s; everything is in {folder}; next: bitplane inspect {files['ternary']}")
    if json:
        write_text(json, to_json(found))


def _session(model: Path, engine: str) -> Any:
    if engine == "onnxruntime":
        from bitplane.benchmarks.peers.ort import session

        if not model.is_file():
            raise UsageError(f"{model}: no such file")
        return session(str(model), 0)
    from bitplane.runtime import InferenceSession

    return InferenceSession(str(model))


def _read_image(path: Path, form: dict[str, Any]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    height, width = form["size"]
    try:
        with Image.open(path) as image:
            x = np.asarray(image.convert("L" if form["channels"] == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError) as e:
        raise UsageError(f"{path}: not a readable image ({e}); give a PNG, JPEG or similar file") from e
    return x.reshape(height, width, -1).transpose(2, 0, 1).copy()
