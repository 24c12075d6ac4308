"""A sample of the faults of `run.py`: the first and the last call of each kind, in each operation that is quick."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")
QUICK = ("load", "start", "run", "save", "cold cache", "warm cache", "results")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lies between the process and glibc")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_after_every_fault_files_are_whole_and_the_next_attempt_succeeds(tmp_path):
    figures = tmp_path / "faults.json"
    command = [sys.executable, str(SCRIPT), "--most", "1", "--json", str(figures), "--only", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [row for kinds in json.loads(figures.read_text())["operations"].values() for row in kinds.values()]
    assert sum(row["tried"] for row in rows) > 200
    assert all(row["held"] == row["tried"] for row in rows)
