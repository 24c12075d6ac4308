"""Write the seeds of the fuzz targets (`corpus`): `python tests/fuzz/seeds.py`. They are small, and of every kind."""

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

from PIL import Image
from things import EXPERIMENT, RESULTS, STUDY

CORPUS = Path(__file__).resolve().parent / "corpus"


def image(mode: str, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture = Image.linear_gradient("L").resize((13, 7))
    if mode == "P;t":
        picture, options = picture.convert("P"), {**options, "transparency": 3}
    elif mode == "I;16":
        picture = Image.frombytes("I;16", (13, 7), bytes(range(182)))
    else:
        picture = picture.convert(mode)
    picture.save(out, kind, **options)
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(3000))) + chunk(b"IEND", b"")


def pixels() -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        **{f"{mode.replace(';', '')}.png": image(mode, "PNG") for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "P;t", "I;16")},
        **{f"{mode}.jpg": image(mode, "JPEG") for mode in ("L", "RGB", "CMYK")},
        **{f"{mode}.tif": image(mode, "TIFF") for mode in ("1", "L", "RGBA", "F", "CMYK", "I;16")},
        "packed.tif": image("RGB", "TIFF", compression="packbits"),
        "turned.jpg": image("RGB", "JPEG", exif=turned),
        "p.gif": image("P", "GIF"),
        "rgb.webp": image("RGB", "WEBP"),
        "rgb.bmp": image("RGB", "BMP"),
        "rgb.ppm": image("RGB", "PPM"),
        "wide.png": bomb(1 << 16, 1 << 12),
        "bomb.png": bomb(1 << 20, 1 << 20),
        "nothing.png": bomb(0, 0),
    }
    return kinds | {"cut.png": kinds["RGB.png"][:60], "cut.jpg": kinds["RGB.jpg"][:300]}


def metadata() -> dict[str, bytes]:
    names = json.dumps([str(i) for i in range(10)])
    given = {"size": [32, 32], "channels": 3, "mean": [1.5, 2, 3], "std": [4, 5, 6.5], "resize": "bicubic", "fit": "crop"}
    whole = ["format_version=1.4", "model=resnet20", "level_set=ternary", "activation_bits=2", "dataset=cifar10"]
    whole += [f"classes={names}", f"input={json.dumps(given)}", 'accuracy={"test_top1": 0.9, "epochs": 3}']
    return {
        "whole": "\n".join(whole).encode(),
        "one-mean": b'input={"size": [32, 32], "channels": 3, "mean": 120, "std": [60.5]}',
        "deep": b"classes=" + b"[" * 50,
        "numbers": b'input={"size": [1e9, NaN], "channels": true}\naccuracy={"test_top1": Infinity}\nactivation_bits=mixed',
    }


def experiment() -> dict[str, bytes]:
    override = (
        '[[group.override]]\nwhen = { seed = 1 }\noptions = { lr = 0.05, earlier_bits = [8, 4] }\ninit = false\nteacher = ""\n'
    )
    first = EXPERIMENT.replace("weights = [", 'variant = ["x"], weights = [')
    more = f'[[group]]\nname = "b"\ninit = "small"\nteacher = "small"\ncolumns = "seed"\naxes = {{ seed = [0, 1] }}\n{override}'
    more += '[[reference]]\ngroup = "b"\nwhen = { seed = 1 }\ntop1 = 87.5\n'
    return {
        "one.toml": EXPERIMENT.encode(),
        "two.toml": (first.replace('title = "t"', 'title = "t"\nabout = """\nx"""') + more).encode(),
        "wrong.toml": b"title = 3\ngroup = [{ axes = 0x1F, when = 1979-05-27T07:32:00Z }]",
        "out.toml": EXPERIMENT.replace('"small"', '"../../up"').encode(),
        "many.toml": EXPERIMENT.replace(
            "seed = [0]", ", ".join(f"{k} = [{'1,' * 99}]" for k in ("seed", "epochs", "batch_size", "keep", "accumulate"))
        ).encode(),
    }


def study() -> dict[str, bytes]:
    return {
        "packed.toml": STUDY.encode(),
        "measure.toml": (STUDY + "[measure]\nthreads = [1, 2]\nrounds = 3\nseconds = 0.05\nstarts = 0\n").encode(),
        "layers.toml": b'title="t"\n[[group]]\nname="l"\nlayers=["ternary/2 64x8", "binary/1 64x56"]\nbaseline=""',
        "model.toml": b'title="t"\n[[group]]\nname="u"\nmodel="resnet18"\nsize=224\nlow_bit=["ternary/2"]\nepochs=3\n',
        "runs.toml": b'title="t"\n[[group]]\nname="e"\nexperiment="e.toml"\nruns="r"\nonly=["a/*"]\n',
    }


def results() -> dict[str, bytes]:
    run = {"group": "b", "axes": {"seed": 1}, "epochs": 3, "top1": 0.5, "train_loss": 1.5, "seconds": 9.5, "device": "d"}
    run |= {"torch": "2", "init": {"top1": 0.4, "epochs": 2}}
    runs = [run, run | {"axes": {"seed": 0}, "init": {}}, run | {"group": "small", "axes": {"seed": 0, "weights": "binary"}}]
    return {
        "study.json": json.dumps(RESULTS).encode(),
        "runs.json": json.dumps({"title": "t", "runs": runs}).encode(),
        "twice.json": b'{"title": "t", "title": "u", "about": "", "groups": [], "version": 1}',
        "surrogate.json": b'{"title": "\\ud800", "about": "\\u001b[2J", "groups": [], "version": 1e3}',
    }


def stored_run() -> dict[str, bytes]:
    from dataclasses import asdict

    from bitplane.train.config import TrainConfig

    result = {"test_top1": 0.5, "test_loss": 1.0, "train_top1": 0.5, "train_loss": 1.0, "epochs": 1, "classes": ["a"]}
    result |= {"dataset": "d", "seconds": 1.5, "device": "cpu", "torch": "2"}
    state = {"epoch": 1, "step": 4, "average_weight": 0.0, "seconds": 0.5, "processes": 1, "bits": 2}
    return {
        "config.json": json.dumps(asdict(TrainConfig())).encode(),
        "result.json": json.dumps(result).encode(),
        "state.json": json.dumps(state).encode(),
        "odd.json": b'{"model": [], "data": null, "epochs": 1e400, "x": NaN}',
    }


def checkpoint() -> dict[str, bytes]:
    from safetensors.torch import save
    from targets.checkpoint import MODEL

    whole = save(MODEL.state_dict())
    header = whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]].rstrip()
    return {
        "header.json": header,
        "half.json": header.replace(b'"F32"', b'"F16"'),
        "nan.json": header + b" " * (len(header) % 2 == 0),
        "meta.json": b'{"__metadata__":{"a":"b"},' + header[1:],
        "small": b"\xff" + struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      ' + bytes(4),
        "huge": b"\xff" + struct.pack("<Q", 1 << 62) + b"{}",
    }


def options() -> dict[str, bytes]:
    lines = [
        "train --output x --epochs 3 --lr 0.1 --weights ternary --layer-weights a=binary b=ternary --download",
        "bench a.onnx b.onnx --threads 1 2 --against x --no-kernels --batch-size=3",
        "export run -o x.onnx --form packed --mean 1 2 3 --std 4.5 --keep a* --size 3 4",
        "study d.toml -o x --only a b --rounds 3 --size 0",
        "recommend --latency 0.2ms --accuracy 90 --size 100000",
        "experiments d.toml --output x --epochs nan",
        "predict m.onnx a.png b.png --json x",
        "demo --help",
    ]
    return {line.split()[0]: line.replace(" ", "\n").encode() for line in lines}


if __name__ == "__main__":
    for make in (pixels, metadata, experiment, study, results, stored_run, checkpoint, options):
        folder = CORPUS / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in make().items():
            (folder / name).write_bytes(data)
