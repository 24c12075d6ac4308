"""Commands do what they say, for people and for machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from bitplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "format-1.1" / "ternary4.onnx"
FLOAT = ROOT / "examples" / "resnet20-cifar10-float.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The ten example images as a data set of two classes."""
    folder = tmp_path_factory.mktemp("data")
    for i, path in enumerate(sorted((ROOT / "examples" / "images").glob("*.png"))):
        for split in ("train", "test"):
            target = folder / split / str(i % 2) / path.name  # classes without names are numbers
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).save(target)
    return folder


def test_inspect_says_what_every_layer_is_and_costs(tmp_path, capsys) -> None:
    assert main(["inspect", str(MODEL), "--json", str(tmp_path / "i.json")]) == 0
    shown, value = capsys.readouterr().out, json.loads((tmp_path / "i.json").read_text())
    layers = {layer["name"]: layer for layer in value["layers"]}
    assert len(layers) == 20
    conv = layers["layer2.0.conv1"]
    assert (conv["weight_shape"], conv["output_shape"]) == ([32, 16, 3, 3], [32, 16, 16])
    assert (conv["weights"], conv["activation_bits"], conv["multiply_adds"]) == ("ternary", 4, 32 * 16 * 9 * 256)
    assert conv["packed_bytes"] == 2 * 32 * 18 + 8 * 32
    assert conv["float_bytes"] == 4 * (32 * 16 * 9 + 32)
    assert conv["kernel"].startswith(("popcount ternary x4b", "dot u8s8"))  # by the machine
    assert layers["fc"]["weights"] == "int8"
    # What is listed is what the file holds, but for the names and steps around it.
    stored = sum(len(t.raw_data) for t in onnx.load(MODEL).graph.initializer)
    assert 0 <= stored - sum(layer["packed_bytes"] for layer in layers.values()) < 200
    assert value["file_bytes"] == MODEL.stat().st_size
    assert "layer3.2.conv2" in shown
    assert "smaller than its float32 weights" in shown


@pytest.mark.parametrize("form", ["packed", "inlined", "dequantized", "qonnx"])
def test_export_of_a_float_onnx_model_in_every_form(pictures, tmp_path, capsys, form: str) -> None:
    out = tmp_path / "m.onnx"
    options = ["--data", str(pictures), "--weights", "ternary", "--activations", "4", "--keep", "layer1.*", "--form", form]
    assert main(["export", str(FLOAT), "-o", str(out), *options, "--json", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    levels = {layer["name"]: layer["levels"] for layer in report["layers"]}
    assert levels["layer1.0.conv1"] == "float"
    assert levels["layer3.2.conv2"] == "ternary"
    assert ("layer1.0.conv1 computes in floating point" in capsys.readouterr().out) == (form in ("packed", "inlined"))
    if form == "packed":
        assert main(["eval", str(out), "--data", str(pictures), "--agreement", "5", "--json", str(tmp_path / "e.json")]) == 0
        found = json.loads((tmp_path / "e.json").read_text())["agreement"]
        assert found["images"] == 5
        assert found["largest_logit_difference"] < 1e-4
        assert found["same_class"] == 1


def test_export_refuses_what_it_cannot_do_in_one_line(pictures, tmp_path, capsys) -> None:
    (tmp_path / "taken.onnx").write_bytes(b"mine")
    (tmp_path / "w.pth").write_bytes(b"pickle")
    for arguments, words in (
        ([FLOAT, "-o", tmp_path / "x.onnx"], "give --data"),
        ([FLOAT, "-o", tmp_path / "taken.onnx", "--data", pictures], "exists; add --force"),
        ([FLOAT, "-o", tmp_path / "x.onnx", "--data", pictures, "--mean", "3"], "--mean and --std go together"),
        ([FLOAT, "-o", tmp_path / "x.onnx", "--data", pictures, "--mean", "3", "--std", "4"], "takes uint8 pixels already"),
        ([FLOAT, "-o", tmp_path / "x.onnx", "--data", pictures, "--samples", "0"], "--samples 0: must be at least 1"),
        ([FLOAT, "-o", tmp_path / "x.onnx", "--data", pictures, "--keep", "layer9.*"], "no layer is called 'layer9.*'"),
        ([tmp_path / "w.pth", "-o", tmp_path / "x.onnx", "--data", pictures], "is a pickle"),
        ([FLOAT, "-o", tmp_path / "x.onnx", "--data", "digits"], "the samples are [1, 16, 16]"),
    ):
        assert main(["export", *map(str, arguments)]) == 2, words
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
    assert (tmp_path / "taken.onnx").read_bytes() == b"mine"
    assert not (tmp_path / "x.onnx").exists()


def test_export_of_what_the_runtime_cannot_run_takes_a_flag(pictures, tmp_path, capsys) -> None:
    file = onnx.load(FLOAT)
    file.graph.node[-1].output[0] = "scores"
    file.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["logits"], name="soft", axis=1))
    onnx.save(file, tmp_path / "source.onnx")
    out = tmp_path / "m.onnx"
    arguments = ["export", str(tmp_path / "source.onnx"), "-o", str(out), "--data", str(pictures), "--weights", "ternary"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'soft' (Softmax)" in error
    assert "--allow-unrunnable" in error
    assert not out.exists()
    assert main([*arguments, "--allow-unrunnable"]) == 0
    assert "bitplane.runtime does not run it: node 'soft' (Softmax)" in capsys.readouterr().out
    assert out.exists()


def test_fine_tuning_starts_from_a_file_of_weights(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    options = ["--epochs", "1", "--batch-size", "512"]
    assert main(["train", "--output", str(tmp_path / "float"), "--weights", "float", "--activations", "32", *options]) == 0
    weights = {
        k: v for k, v in load_file(tmp_path / "float" / "final" / "model.safetensors").items() if not k.startswith("input.")
    }
    save_file({k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}, tmp_path / "w.safetensors")
    for name, start in (("run", tmp_path / "float"), ("file", tmp_path / "w.safetensors")):
        assert main(["train", "--output", str(tmp_path / name), "--init", str(start), *options]) == 0
    a, b = (load_file(tmp_path / n / "final" / "model.safetensors") for n in ("run", "file"))
    assert all(np.array_equal(a[k], b[k]) for k in a if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("argv", [["inspect", str(MODEL)], ["train", "--help"]])
def test_a_reader_that_has_read_enough_is_no_mistake(argv) -> None:
    read, write = os.pipe()
    os.close(read)  # `bitplane ... | head` after the first lines
    try:
        command = [sys.executable, "-m", "bitplane.cli", *argv]
        process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(write)
    assert process.stderr == b""
    assert process.returncode == 141
