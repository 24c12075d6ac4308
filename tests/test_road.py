import json
import subprocess
import sys

import pytest

from bitplane.cli import main


def test_the_runtime_loads_no_torch():
    code = "import sys, bitplane.runtime; assert not {'torch', 'bitplane.train'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("weights", "activations"), [("ternary", 2), ("binary", 1)])
def test_train_export_evaluate_inspect_on_digits(tmp_path, weights, activations):
    run, file = tmp_path / "run", tmp_path / "model.onnx"
    options = ["--weights", weights, "--activations", str(activations), "--epochs", "2"]
    assert main(["train", "--output", str(run), *options]) == 0
    assert main(["export", str(run), "-o", str(file), "--json", str(tmp_path / "export.json")]) == 0
    tops = []
    for engine in ("bitplane", "onnxruntime"):
        assert main(["eval", str(file), "--engine", engine, "--json", str(tmp_path / "eval.json")]) == 0
        tops.append(json.loads((tmp_path / "eval.json").read_text())["top1"])
    assert tops[0] == tops[1]
    assert main(["inspect", str(file)]) == 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    assert main(["train", "--output", str(run), *options]) == 2  # the run exists


def test_mistakes_give_one_line_and_code_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.onnx").write_bytes(b"no")
    for arguments in (
        ["inspect", str(tmp_path / "missing.onnx")],
        ["inspect", str(tmp_path / "x.onnx")],
        ["train", "--output", str(tmp_path / "r"), "--data", str(tmp_path / "empty")],
        ["train", "--output", str(tmp_path / "r"), "--data", "nothing"],
        ["train", "--output", str(tmp_path / "r"), "--resume"],
        ["export", str(tmp_path / "none"), "-o", str(tmp_path / "o.onnx")],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("bitplane: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()
