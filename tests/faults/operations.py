"""What faults are injected into: each operation prepares a folder, acts on it, and says what it must hold whatever happens."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bitplane.cli.output import write_json
from bitplane.documents import Kind, read_json
from bitplane.errors import BitplaneError
from bitplane.export import Quantization, to_onnx
from bitplane.format.files import read_file
from bitplane.runtime import InferenceSession
from bitplane.runtime.execute import code_cache, machine_code
from bitplane.train.checkpoint import newest_checkpoint, read_tensors, save_checkpoint
from bitplane.train.checkpoint import read_json as read_run_json
from bitplane.train.config import from_options
from bitplane.train.data import load_data
from bitplane.train.loop import train
from bitplane.train.weights import load_final

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "format-1" / "ternary2.onnx"
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32), np.uint8)


@dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        prepare: makes what `act` finds, in an empty folder; without faults.
        ready: what is done before the faults begin, such as opening a session; `act` takes what it returns.
        act: the operation, on a copy of that folder; returns what can be compared.
        whole: raises AssertionError where the folder holds half of something, or lost what it held.
    """

    prepare: Callable[[Path], None]
    ready: Callable[[Path], Any]
    act: Callable[[Path, Any], Any]
    whole: Callable[[Path], None]


def nothing(_: Path) -> None:
    pass


def digest(*arrays: Any) -> str:
    found = hashlib.sha256()
    for a in arrays:
        found.update(np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def copy_model(folder: Path) -> None:
    shutil.copy(MODEL, folder / "model.onnx")


def open_and_run(folder: Path, _: Any) -> str:
    return digest(*InferenceSession(folder / "model.onnx", threads=1).run(None, {"input": IMAGES}))


def forget_code(_: Path) -> None:
    machine_code._loaded = None


def open_session(folder: Path) -> InferenceSession:
    return InferenceSession(folder / "model.onnx", threads=3)


def run_session(_: Path, session: InferenceSession) -> str:
    return digest(*session.run(None, {"input": IMAGES}))


def unchanged(folder: Path) -> None:
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"model.onnx": MODEL.read_bytes()}


def make_network(_: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()


def export(folder: Path, network: torch.nn.Module) -> str:
    pixels = torch.from_numpy(IMAGES[:, :, :8, :8].copy()).float()
    to_onnx(network, pixels, folder / "model.onnx", quantization=Quantization(weights="ternary"), force=True)
    return hashlib.sha256(read_file(folder / "model.onnx", 1 << 20)).hexdigest()


def older_or_runs(folder: Path) -> None:
    """The older file, or one that a session takes."""
    assert [p.name for p in folder.iterdir()] == ["model.onnx"]
    if (folder / "model.onnx").read_bytes() != MODEL.read_bytes():
        InferenceSession(folder / "model.onnx", threads=1)


def tensors(epoch: int) -> dict[str, torch.Tensor]:
    return {"b": torch.full((3,), float(epoch)), "w": torch.full((40_000,), float(epoch))}


def save(folder: Path, epoch: int, held: dict[str, torch.Tensor]) -> None:
    save_checkpoint(folder, epoch, held, held, {"epoch": epoch}, keep=1)


def save_second(folder: Path, held: dict[str, torch.Tensor]) -> tuple[dict[str, int], str]:
    save(folder, 2, held)
    return newest(folder)


def newest(folder: Path) -> tuple[dict[str, int], str]:
    """What the newest checkpoint holds."""
    found = newest_checkpoint(folder)
    held = [v.numpy() for name in ("model", "optimizer") for v in read_tensors(found / f"{name}.safetensors").values()]
    return read_run_json(found / "state.json", dict[str, int]), digest(*held)


def checkpoint_whole(folder: Path) -> None:
    epoch = newest(folder)[0]["epoch"]
    assert epoch in (1, 2)
    held = [v.numpy() for v in tensors(epoch).values()]
    assert newest(folder) == ({"epoch": epoch}, digest(*held, *held))


def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for c in range(2):
            to = folder / "images" / split / f"class{c}"
            to.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(to / f"{i}.png")


def begin_run(folder: Path) -> None:
    """A run of two epochs that was killed after the first."""
    pictures(folder)
    options = {"epochs": 2, "batch_size": 8, "activations": 4, "eval_every": 10, "keep": 2, "model": "resnet20"}
    train(from_options({**options, "data": str(folder / "images")}), folder / "run", progress=False)
    shutil.rmtree(folder / "run" / "checkpoints" / "epoch-0002")
    shutil.rmtree(folder / "run" / "final")


def loaded_data(folder: Path) -> Any:
    config = from_options({"data": str(folder / "images")})
    return config, load_data(config.data)


def resume(folder: Path, given: Any) -> str:
    config, data = given
    train(config, folder / "run", resume=True, progress=False, data=data)
    model = load_final(folder / "run")[0]
    return digest(*(v.numpy() for v in model.state_dict().values()))


def resumable(folder: Path) -> None:
    """The older checkpoint is there or a newer one, and what is final is whole."""
    found = newest_checkpoint(folder / "run")
    for name in ("model", "optimizer"):
        read_tensors(found / f"{name}.safetensors")
    if (folder / "run" / "final").exists():
        load_final(folder / "run")


CODE = "symbol", b"code" * 50_000


def cache_here(folder: Path) -> None:
    code_cache.cache_folder = lambda: folder / "cache"  # no environment: a fault may hit reading it
    machine_code.compile_kernels = lambda: CODE


def cached(_: Path, __: Any) -> tuple[str, bytes]:
    with machine_code._one_line():
        return machine_code._find_or_compile()[:2]


def warm_cache(folder: Path) -> None:
    cache_here(folder)
    machine_code._find_or_compile()


def cache_whole(folder: Path) -> None:
    files = list((folder / "cache").glob("*.bin")) if (folder / "cache").exists() else []
    assert all(code_cache.read(p) == CODE for p in files)


DOCUMENT = {"rows": list(range(3000))}
RESULTS = Kind("results", "measure again", BitplaneError)


def older_results(folder: Path) -> None:
    write_json(folder / "study.json", {"rows": []})


def results(folder: Path, _: Any) -> dict[str, list[int]]:
    read_json(folder / "study.json", dict[str, list[int]], RESULTS)
    write_json(folder / "study.json", DOCUMENT)
    return read_json(folder / "study.json", dict[str, list[int]], RESULTS)


def results_whole(folder: Path) -> None:
    assert json.loads((folder / "study.json").read_text()) in ({"rows": []}, DOCUMENT)


OPERATIONS = {
    "load": Operation(copy_model, nothing, open_and_run, unchanged),
    "start": Operation(copy_model, forget_code, open_and_run, unchanged),
    "run": Operation(copy_model, open_session, run_session, unchanged),
    "export": Operation(copy_model, make_network, export, older_or_runs),
    "save": Operation(lambda folder: save(folder, 1, tensors(1)), lambda _: tensors(2), save_second, checkpoint_whole),
    "resume": Operation(begin_run, loaded_data, resume, resumable),
    "cold cache": Operation(nothing, cache_here, cached, cache_whole),
    "warm cache": Operation(warm_cache, cache_here, cached, cache_whole),
    "results": Operation(older_results, nothing, results, results_whole),
}
