"""`bitplane train`, `export`, `eval` and `experiments` with networks from elsewhere."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from bitplane.cli import main
from bitplane.runtime import InferenceSession
from bitplane.train.models.python_file import read_python
from bitplane.train.weights import load_final

SOURCE = """
from torch import nn


def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, classes),
    )
"""
DESCRIPTION = """
title = "t"
[common]
epochs = 1
batch_size = 16
size = 32
activations = 4
layer_activations = ["3=8"]
[[group]]
name = "g"
columns = "model"
axes = {{ model = ["resnet20", "{file}:build"] }}
options = {{ layer_activations = [] }}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "nets" / "mynet.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def train(run: Path, pictures: Path, model: str, *extra: str) -> int:
    options = ["--epochs", "1", "--batch-size", "16", "--size", "32", "--lr", "0.02", "--activations", "4"]
    return main(["train", "--output", str(run), "--model", model, "--data", str(pictures), *options, *extra])


def pixels(pictures: Path) -> np.ndarray:
    files = sorted((pictures / "test").glob("*/*.png"))
    return np.stack([np.asarray(Image.open(f).resize((32, 32))).transpose(2, 0, 1) for f in files])


def agrees_with_torch(model: torch.nn.Module, path: Path, images: np.ndarray) -> None:
    """A value at a tie of two codes may go either way, which moves logits a little."""
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = InferenceSession(path).run(None, {"input": images})[0]
    assert np.median(np.abs(found - expected)) < 1e-5 * np.abs(expected).max()


def properties(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def test_a_network_of_torchvision_goes_all_the_way(pictures, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "m.onnx"
    assert train(run, pictures, "torchvision:mnasnet0_5", "--layer-activations", "layers.8.0.layers.6=8") == 0
    printed = capsys.readouterr().out
    assert "layers.8.0.layers.0" in printed
    assert "kept: the first or last layer" in printed
    assert main(["export", str(run), "-o", str(out), "--samples", "8", "--edges", "32"]) == 0
    assert properties(out)["bitplane.model"] == "torchvision:mnasnet0_5"
    model, _, _ = load_final(run)
    agrees_with_torch(model, out, pixels(pictures))
    assert main(["eval", str(out), "--data", str(pictures), "--json", str(tmp_path / "eval.json")]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["images"] == 16
    assert main(["train", "--output", str(run), "--resume"]) == 0
    assert main(["export", str(run), "-o", str(out), "--force", "--model", "torchvision:vgg11"]) == 2
    assert "is a run of torchvision:mnasnet0_5, not of torchvision:vgg11; leave out --model" in capsys.readouterr().err


def test_a_network_of_a_file_goes_all_the_way_wherever_the_file_is_named(pictures, file, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "m.onnx"
    assert train(run, pictures, f"{file}:build") == 0
    assert main(["export", str(run), "-o", str(out)]) == 2
    assert "runs only if you name it: add --model" in capsys.readouterr().err
    assert main(["train", "--output", str(run), "--resume"]) == 2
    assert "runs only if you name it: add --model" in capsys.readouterr().err
    copied = f"{run / 'model.py'}:build"
    assert main(["train", "--output", str(run), "--resume", "--model", copied]) == 0
    assert main(["train", "--output", str(run), "--resume", "--model", "torchvision:vgg11"]) == 2
    assert "was trained with model" in capsys.readouterr().err
    assert main(["export", str(run), "-o", str(out), "--model", copied, "--samples", "8", "--edges", "32"]) == 0
    assert properties(out)["bitplane.model"] == "mynet.py:build"  # the folders are of one machine
    # The names of the network itself.
    assert [n.name for n in onnx.load(out).graph.node if n.op_type == "TernaryConv"] == ["3", "9"]
    model, _, _ = load_final(run, read_python(load_config(run)))
    agrees_with_torch(model, out, pixels(pictures))


def load_config(run: Path):
    from dataclasses import replace

    from bitplane.train.checkpoint import read_config

    return replace(read_config(run).model, model=f"{run / 'model.py'}:build")


def test_a_run_starts_from_one_of_other_weights(pictures, file, tmp_path, capsys):
    float_run = ("--weights", "float", "--activations", "32")
    assert train(tmp_path / "float", pictures, f"{file}:build", *float_run) == 0
    assert train(tmp_path / "binary", pictures, f"{file}:build", "--weights", "binary", "--init", str(tmp_path / "float")) == 0
    assert train(tmp_path / "other", pictures, "torchvision:mnasnet0_5", "--init", str(tmp_path / "float")) == 2
    err = capsys.readouterr().err
    assert (
        "float/final/model.safetensors: belongs to another model: `network.0.bias` is [8] there and absent in torchvision"
        in err
    )


def test_a_description_alone_never_has_a_file_run(pictures, file, tmp_path, capsys):
    description = tmp_path / "d.toml"
    description.write_text(DESCRIPTION.format(file=file))
    command = ["experiments", str(description), "-o", str(tmp_path / "runs"), "--data", str(pictures)]
    assert main(command) == 2
    assert f"group 'g': `model` (={file}:build) is a Python file, which runs only if you name it" in capsys.readouterr().err
    assert main([*command, "--model", f"{file}:build", "--json", str(tmp_path / "r.json")]) == 0
    assert len(json.loads((tmp_path / "r.json").read_text())["runs"]) == 2
    assert {p.name.rpartition("-")[2] for p in (tmp_path / "runs" / "g").iterdir() if p.is_dir()} == {"e1"}
    assert main([*command, "--model", f"{file}:build"]) == 0  # nothing is missing


def test_a_file_of_a_run_is_named_for_folders_only(tmp_path, capsys):
    (tmp_path / "x.onnx").touch()
    assert main(["export", str(tmp_path / "x.onnx"), "-o", str(tmp_path / "y.onnx"), "--model", "a.py:f"]) == 2
    assert "--model a.py:f: is for the folder of a run" in capsys.readouterr().err
