"""A folder of everything that a path can be: good and bad models, images, runs, descriptions and results."""

import json
import os
import shutil
import stat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "format-1.1" / "ternary4.onnx"

EXPERIMENT = """title = "t"
[common]
epochs = 1
[[group]]
name = "small"
columns = "weights"
axes = { seed = [0], weights = ["binary", "ternary"] }
"""
STUDY = 'title = "t"\n[[group]]\nname = "small"\npacked = ["model.onnx"]\nengines = ["bitplane"]\nbaseline = "bitplane"\n'
ROW = {"network": "n", "engine": "bitplane", "threads": 1, "weights": "ternary", "activations": 2, "file": "f.onnx", "bytes": 9}
ROW |= {
    "top1": 0.9,
    "images": 10,
    "stream": {"ms": {"value": 1.0, "low": 1.0, "high": 1.0}, "p90": 1, "p99": 1, "calls": 9, "rounds": 3},
}
MACHINE = {"cpu": "c", "features": [], "processors": 2, "memory_gb": 1.0, "system": "s", "python": "3", "governor": ""}
QUIET = {"quiet": True, "reference_spread": 0.0, "stolen": None, "load_before": None, "megahertz": []}
HOW = {"rounds": 1, "seconds": 0.1, "starts": 1, "batch": 1}
GROUP = {
    "name": "small",
    "date": "2026-01-01",
    "data": "digits",
    "baseline": "bitplane",
    "machine": MACHINE,
    "conditions": QUIET,
}
RESULTS = {"title": "t", "about": "", "groups": [GROUP | {"method": HOW, "rows": [ROW]}], "version": 1}
DEEP = 20_000
"""Brackets of a document that is nested too deeply."""


def lay_out(folder: Path) -> list[str]:
    """Fill an empty folder.

    Returns:
        Names of what is there, and of what is not: paths relative to the folder.
    """
    from PIL import Image

    os.chdir(folder)
    shutil.copy(MODEL, "model.onnx")
    Path("cut.onnx").write_bytes(MODEL.read_bytes()[:9000])
    Image.new("RGB", (32, 32), (9, 200, 30)).save("image.png")
    Path("cut.png").write_bytes(Path("image.png").read_bytes()[:50])
    for split in ("train", "test"):
        for name in "ab":
            Path("images", split, name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (16, 16), (60 * i, 9, 200 * (name == "a"))).save(f"images/{split}/{name}/{i}.png")
    _documents()
    Path("empty").touch()
    Path("text").write_text("x")
    Path("binary").write_bytes(b"\xff\xfe\0\1" * 10)
    Path("folder/inner").mkdir(parents=True)
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    Path("there").symlink_to("model.onnx")
    Path("shut").write_text("x")
    Path("shut").chmod(0)
    Path("sparse.onnx").touch()
    os.truncate("sparse.onnx", 3 << 30)
    os.mkfifo("fifo")
    _run()
    made = sorted(p.name for p in folder.iterdir())
    return [
        *made,
        "absent",
        "absent/x",
        "text/x",
        "new",
        "new/in/new",
        ".",
        "..",
        "/",
        "/dev/null",
        "/dev/full",
        "/dev/zero",
        "run/final",
        "images/train",
    ]


def _documents() -> None:
    texts = {
        "experiment.toml": EXPERIMENT,
        "study.toml": STUDY,
        "study.json": json.dumps(RESULTS),
        "runs.json": json.dumps({"title": "t", "runs": []}),
        "page.md": "# t\n<!-- study: small -->\n<!-- end -->\n",
        "wrong.toml": "title = 3\ngroup = 4",
        "deep.toml": "a=" + "[" * DEEP,
        "deep.json": "[" * DEEP,
        "list.json": "[]",
        "null.json": "null",
        "nan.json": '{"title": "t", "runs": [{"group": NaN}], "version": NaN}',
        "twice.json": '{"title": "t", "title": "u", "about": "", "groups": [], "version": 1}',
        "huge.json": '{"title": "t", "about": "", "groups": [], "version": 1' + "0" * 5000 + "}",
        "surrogate.json": '{"title": "\\ud800\\u001b[2J", "about": "", "groups": [], "version": 1}',
        "odd-runs.json": json.dumps({"title": "t", "runs": [{"group": 3, "axes": 4, "epochs": "x", "top1": []}]}),
        "odd.toml": EXPERIMENT.replace("[0]", "[[0], {a = 1}, nan]").replace('"t"', '"\\u001b[2J"'),
        "zero.toml": EXPERIMENT.replace('"binary"', '"\\u0000"').replace("seed", "model"),
        "up.toml": EXPERIMENT.replace('"small"', '"../../up"'),
        "keys.json": json.dumps(RESULTS | {"groups": [GROUP | {"method": {}, "rows": [ROW]}]}),
        "nul.toml": STUDY.replace("model.onnx", "\\u0000"),
        "layers.toml": 'title="t"\n[[group]]\nname="l"\nlayers=["ternary/2 0x0", "binary/1 999999999x999999999"]\nengines=[]',
        "untrained.toml": 'title="t"\n[[group]]\nname="u"\nmodel="resnet20"\nsize=-1\nlow_bit=["ternary/2"]\nengines=[]',
    }
    for name, text in texts.items():
        Path(name).write_text(text)


def _run() -> None:
    """A finished run, and damaged copies."""
    import torch

    from bitplane.train.config import DataConfig, ModelConfig, TrainConfig
    from bitplane.train.loop import train

    torch.set_num_threads(1)
    config = TrainConfig(model=ModelConfig(model="resnet20"), data=DataConfig("images"), epochs=1, batch_size=8)
    train(config, Path("run"), progress=False)
    for name, file, text in [
        ("run-list", "config.json", "[]"),
        ("run-null", "final/result.json", "null"),
        ("run-odd", "final/result.json", '{"classes": 3, "test_top1": "x", "dataset": [], "epochs": {}}'),
        ("run-deep", "config.json", "[" * DEEP),
        ("run-part", "config.json", '{"model": [], "data": null}'),
        ("run-wide", "config.json", (Path("run/config.json").read_text()).replace('"classes": 2', '"classes": 100000000000')),
        ("run-cut", "final/model.safetensors", "cut"),
        ("run-state", "checkpoints/epoch-0001/state.json", '{"epoch": "x"}'),
        ("run-state2", "checkpoints/epoch-0001/state.json", '{"epoch": NaN, "bits": 1e99, "processes": 1}'),
    ]:
        shutil.copytree("run", name, ignore=shutil.ignore_patterns("checksums.json"))
        Path(name, file).write_text(text)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a folder: kind, size and time of its last change."""
    found = {}
    for path in folder.rglob("*"):
        info = path.lstat()
        found[str(path.relative_to(folder))] = (
            stat.S_IFMT(info.st_mode),
            info.st_size if path.is_file() else 0,
            info.st_mtime_ns if path.is_file() else 0,
        )
    return found
