"""A user's mistake is one line on standard error that names the file, exit code 2, and nothing half written."""

import errno
import os
import re
from pathlib import Path

import pytest

from bitplane.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "resnet20-cifar10-ternary2.onnx"
IMAGE = EXAMPLES / "images" / "ship.png"


@pytest.fixture
def refusal(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: its one line of complaint."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(a) for a in argv]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("bitplane: ")
        return error

    return run


def broken(path: Path, how: str) -> Path:
    data = MODEL.read_bytes()
    data = {
        "truncated": data[:20000],
        "not ONNX": b"hello\n",
        "empty": b"",
        "unknown operator": data.replace(b"TernaryConv", b"TernaryConw"),
        "unknown version": re.sub(rb"(?<=bitplane\.format_version\x12\x03)1(?=\.\d)", b"9", data),
    }[how]
    assert data != MODEL.read_bytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["truncated", "not ONNX", "empty", "unknown operator", "unknown version"])
@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_a_broken_model_is_named(refusal, tmp_path, command, how) -> None:
    model = broken(tmp_path / "model.onnx", how)
    error = refusal(command, model, *[IMAGE] * (command == "predict"))
    assert str(model) in error
    assert ("upgrade bitplane" if how == "unknown version" else "export it again") in error


@pytest.mark.parametrize("command", ["inspect", "eval", "bench"])
def test_a_missing_model_is_named(refusal, command) -> None:
    assert "absent.onnx" in refusal(command, "absent.onnx")


def test_a_missing_or_unreadable_picture_is_named(refusal, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name in ("absent.png", "text.png"):
        assert f"{name}: not a readable image" in refusal("predict", MODEL, name)


def test_images_of_another_shape_are_refused(refusal) -> None:
    assert "expected [batch, 3, 32, 32]" in refusal("eval", MODEL, "--data", "digits")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([], "expected the folders train/ and test/"),
        (["train/a/", "test/a/"], "train/a: no images"),
        (["train/a/1.png", "test/a/1.png"], "1.png: not a readable image"),
    ],
)
def test_a_folder_without_usable_images_is_named(refusal, tmp_path, files, complaint) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir() if name.endswith("/") and not (folder / name).exists() else None
        if not name.endswith("/"):
            (folder / name).write_text("no picture")
        else:
            (folder / name).mkdir(exist_ok=True)
    error = refusal("train", "--data", folder, "--output", "run")
    assert complaint in error
    assert str(folder) in error


def test_a_folder_that_is_no_run_is_named(refusal) -> None:
    assert "nowhere/config.json" in refusal("export", "nowhere", "-o", "x.onnx")
    assert "nowhere/config.json" in refusal("train", "--output", "nowhere", "--resume")
    assert "nowhere/final/model.safetensors" in refusal("train", "--output", "new", "--init", "nowhere")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--output", str(folder), "--epochs", "1", "--batch-size", "256"]) == 0
    return folder


def test_a_run_of_another_model_is_not_resumed(refusal, run_folder) -> None:
    error = refusal("train", "--output", run_folder, "--model", "resnet32", "--resume")
    assert f"{run_folder}: was trained with model resnet20, not resnet32" in error


def test_an_option_that_asks_for_its_default_is_not_ignored_where_the_run_has_another_value(refusal, run_folder) -> None:
    error = refusal("train", "--output", run_folder, "--resume", "--epochs", "30")  # the default; the run has 1
    assert f"{run_folder}: was trained with epochs 1, not 30" in error


def test_a_full_disk_leaves_nothing_behind(refusal, run_folder, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for argv in (["export", run_folder, "-o", "x.onnx"], ["inspect", MODEL, "--json", "x.json"], ["train", "--output", "new"]):
        assert "No space left" in refusal(*argv)


@pytest.mark.parametrize("path", [".", "absent/x"])
def test_an_output_that_cannot_be_written_is_named(refusal, run_folder, path) -> None:
    assert refusal("inspect", MODEL, "--json", path).startswith(f"bitplane: {path}: ")
    assert refusal("export", run_folder, "-o", path).startswith(f"bitplane: {path}: ")
