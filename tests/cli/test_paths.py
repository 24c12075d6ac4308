"""Wrong paths: whatever a path is, a command that cannot use it says so in one line, exit code 2, without a trace."""

import os
from pathlib import Path

import pytest

from bitplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "format-1.1" / "ternary4.onnx"
IMAGE = ROOT / "examples" / "images" / "ship.png"

COMMANDS = {
    "inspect": ["inspect", "BAD"],
    "inspect --json": ["inspect", MODEL, "--json", "BAD"],
    "predict a model": ["predict", "BAD", IMAGE],
    "predict an image": ["predict", MODEL, "BAD"],
    "eval a model": ["eval", "BAD"],
    "eval --data": ["eval", MODEL, "--data", "BAD"],
    "bench": ["bench", "BAD"],
    "export": ["export", "BAD", "-o", "out.onnx"],
    "train --init": ["train", "--output", "run", "--init", "BAD"],
    "train --resume": ["train", "--output", "BAD", "--resume"],
    "train --data": ["train", "--output", "run", "--data", "BAD"],
    "experiments": ["experiments", "BAD", "-o", "out"],
    "study": ["study", "BAD", "-o", "out"],
    "report": ["report", "BAD", "-o", "out"],
    "recommend": ["recommend", "--study", "BAD"],
}

WRITTEN = {"absent", "link", "loop", "file", "binary", "empty", "deep.json", "deep.toml", "wrong.toml", "space ", "\x1b[2J\n"}
"""Paths that are good ones to write to."""


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A folder of things that are no models, images, runs, descriptions or results."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("binary").write_bytes(b"\xff\xfe\0\1" * 10)
    Path("empty").touch()
    Path("deep.json").write_text("[" * 100_000)
    Path("deep.toml").write_text("a=" + "[" * 5000)
    Path("wrong.toml").write_text("title = 3")
    Path("folder").mkdir()
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")


BAD = [
    *(
        "absent",
        "link",
        "loop",
        "file",
        "binary",
        "empty",
        "deep.json",
        "deep.toml",
        "wrong.toml",
        "folder",
        "file/x",
        "absent/x",
    ),
    *("", ".", "/", "x" * 5000, "space ", "\x1b[2J\n", "/dev/null"),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_path_is_one_line(name, paths, capsys):
    tried = 0
    for bad in BAD:
        if (name, bad) == ("inspect --json", "/dev/null") or (name == "inspect --json" and bad in WRITTEN):
            continue
        code = main([str(a).replace("BAD", bad) for a in COMMANDS[name]])
        error = capsys.readouterr().err
        assert code == 2, (bad[:50], error)
        assert error.count("\n") == 1, (bad[:50], error[:500])
        assert error.startswith("bitplane: ")
        assert error[:-1].isprintable()
        tried += 1
    assert tried >= len(BAD) - len(WRITTEN) - 1
