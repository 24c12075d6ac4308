"""export: calibration images of a folder are made into what a network takes."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bitplane.cli import main


@pytest.fixture
def grey(tmp_path):
    """A network of grey, oblong images, and a folder of RGB images of other sizes."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.5, (8, 1, 3, 3)).astype(np.float32),
        "v": rng.normal(0, 0.5, (8, 8, 3, 3)).astype(np.float32),
        "f": rng.normal(0, 0.5, (2, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["g"]),
        helper.make_node("Gemm", ["g", "f"], ["y"], "last", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "grey.onnx")
    for i in range(6):
        target = tmp_path / "data" / "train" / f"class{i % 2}" / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)).save(target)
    return tmp_path


def test_calibration_images_may_be_grey_and_oblong(grey, capsys):
    source, data, out = grey / "grey.onnx", grey / "data", grey / "out.onnx"
    images = ["--data", str(data), "--size", "8", "12", "--channels", "1", "--mean", "0", "--std", "255"]
    report = ["--json", str(grey / "r.json"), "--weights", "ternary"]
    assert main(["export", str(source), "-o", str(out), *images, *report]) == 0
    assert json.loads((grey / "r.json").read_text())["samples"] == 6
    capsys.readouterr()
    assert main(["predict", str(out), *map(str, sorted(data.rglob("*.png")))]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("size", [["8", "12", "3"], ["0"], ["8", "-1"]])
def test_a_size_that_is_none_is_refused(grey, capsys, size):
    arguments = ["export", str(grey / "grey.onnx"), "-o", str(grey / "out.onnx"), "--data", str(grey / "data"), "--size", *size]
    assert main(arguments) == 2
    assert "--size" in capsys.readouterr().err
    assert not (grey / "out.onnx").exists()
