"""What strangers give beside a network: a few seconds of each fuzz target, and of command lines. `run.py` takes any number."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = sorted(p.stem for p in (HERE / "targets").glob("*.py"))
LINES = 80

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_keeps_its_promise(target, tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, HERE / "run.py", target, "--json", report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (found,) = json.loads(report.read_text())
    assert (done.returncode, found["fault"]) == (0, "")
    assert found["executions"] >= 100
    assert found.get("edges", 1) > 0


def test_a_broken_promise_is_found_and_its_input_kept(tmp_path):
    """The harness itself: a target that fails behind three comparisons."""
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "broken.py").write_text(
        "def check(data):\n    if data[:1] == b'k' and data[1:2] == b'e':\n        assert data[2:3] != b'y', 'found'\n"
    )
    (tmp_path / "corpus" / "broken").mkdir(parents=True)
    (tmp_path / "corpus" / "broken" / "seed").write_bytes(b"key" if not guided() else b"kez")
    report, kept = tmp_path / "report.json", tmp_path / "kept"
    command = [sys.executable, HERE / "run.py", "--folder", tmp_path, "--runs", "300000", "--json", report, "--keep", kept]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (found,) = json.loads(report.read_text())
    assert done.returncode == 1
    assert "found" in found["fault"]
    if guided():
        assert [p.read_bytes()[:3] for p in kept.iterdir()] == [b"key"]


def guided():
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def test_every_command_line_ends_in_a_result_or_in_one_line(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, HERE / "command_lines.py", "--count", str(LINES), "--json", report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(report.read_text())
    assert found["faults"] == []
    assert done.returncode == 0, done.stderr
    assert found["count"] == LINES
    assert min(found["outcomes"][word] for word in ("begun", "done", "refused", "refused by the parser")) >= 1
