"""Mutated files are refused in one line or computed as onnxruntime computes them; `fuzz/run.py` takes any number of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_three_hundred_mutants_are_refused_in_one_line_or_equal_onnxruntimes(tmp_path):
    script, report = Path(__file__).parent / "fuzz" / "run.py", tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, script, "--count", "300", "--json", report], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(report.read_text())["outcomes"]
    assert sum(outcomes.values()) == 300
    assert outcomes["refused"] > 100
    assert outcomes["equal"] > 50
