"""The regression watch: a network must not take more instructions than it did when its count was stored."""

import json
from pathlib import Path

import pytest

from bitplane.benchmarks.measuring import instructions

ROOT = Path(__file__).resolve().parents[3]
STORED = ROOT / "tests" / "benchmarks" / "instructions.json"
MORE = 1.03


@pytest.mark.skipif(not instructions.available(), reason="valgrind is not installed")
def test_no_network_takes_more_instructions_than_stored():
    stored = json.loads(STORED.read_text())
    files = [ROOT / name for name in stored["instructions"]]
    found = instructions.count_instructions(files)
    worse = {
        f"{name}: {found[file]:.0f} a call, stored {before}"
        for file, (name, before) in zip(files, stored["instructions"].items(), strict=True)
        if not 0 < found[file] <= MORE * before
    }
    assert not worse, f"{worse}; if it is meant: bitplane bench --instructions --json {STORED.name} ..., and say why"


def test_a_file_that_cannot_be_run_is_refused(tmp_path, monkeypatch):
    (tmp_path / "bad.onnx").write_bytes(b"x")
    monkeypatch.setattr(instructions, "available", lambda: True)
    with pytest.raises(instructions.StudyError, match=r"ModelError: .*bad.onnx"):
        instructions.count_instructions([tmp_path / "bad.onnx"])
    monkeypatch.setattr(instructions, "available", lambda: False)
    with pytest.raises(instructions.StudyError, match="needs `valgrind`"):
        instructions.count_instructions([tmp_path / "bad.onnx"])
