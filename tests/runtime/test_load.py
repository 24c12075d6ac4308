"""The mixed load of `load.py`, for some seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads its memory in /proc")
def test_a_mixed_load_has_right_results_only_and_leaves_no_thread(tmp_path):
    script, figures = Path(__file__).with_name("load.py"), tmp_path / "load.json"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), "--seconds", "5", "--round", "2.5"]
    done = subprocess.run([*command, "--json", str(figures)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert min(found[key] for key in ("calls", "sessions", "forks", "interrupts")) > 0
    assert found["wrong"] == found["errors"] == found["threads left"] == 0
