"""Instructions that one call of a network takes, counted, not timed: the same on a noisy machine as on a quiet one.

A process runs under valgrind's callgrind with kernels compiled for one fixed processor (Haswell: AVX2, what valgrind emulates),
and counting is switched on around its calls. Counts repeat to about 0.1 %; they change with numba's LLVM.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitplane.benchmarks.errors import StudyError

CPU = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
}
CALLS = 20

CHILD = """
import sys
import numpy as np
from bitplane.runtime import InferenceSession
sessions = [InferenceSession(path, threads=1) for path in sys.argv[1:]]
feeds = [{"input": np.zeros((1, *s.get_inputs()[0].shape[1:]), np.uint8)} for s in sessions]
for session, feed in zip(sessions, feeds):
    session.run(None, feed)
print("ready", flush=True)
for line in sys.stdin:
    index, calls = map(int, line.split())
    for _ in range(calls):
        sessions[index].run(None, feeds[index])
    print("done", flush=True)
"""


def available() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None


def count_instructions(files: Sequence[Path], calls: int = CALLS) -> dict[Path, float]:
    """Count the instructions of one call, batch 1, one thread.

    Args:
        files: packed files that take pixels.
        calls: calls that are averaged.

    Returns:
        File to instructions a call, Python's own share (a few thousand) included.

    Raises:
        StudyError: valgrind is missing or failed.
    """
    if not available():
        raise StudyError("counting instructions needs `valgrind`; install the system's package of that name")
    environment = {**os.environ, **CPU}
    paths = [str(f) for f in files]
    # Compiles what is missing in the kernels' cache at full speed.
    warm = subprocess.run([sys.executable, "-c", CHILD, *paths], input="", env=environment, capture_output=True, text=True)
    if warm.returncode != 0:
        raise StudyError((warm.stderr.strip().splitlines() or ["the runtime failed"])[-1])
    with tempfile.TemporaryDirectory(prefix="bitplane-instructions-") as folder:
        _run(paths, calls, environment, Path(folder) / "out")
        dumps = [Path(folder) / f"out.{i + 1}" for i in range(len(paths))]
        try:
            return {f: _total(d) / calls for f, d in zip(files, dumps, strict=True)}
        except OSError as e:
            raise StudyError(f"valgrind left no count ({e})") from e


def _run(paths: Sequence[str], calls: int, environment: Mapping[str, str], out: Path) -> None:
    command = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    command += [sys.executable, "-c", CHILD, *paths]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe, stderr=null) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def control(option: str, *value: str) -> None:
            subprocess.run(["callgrind_control", option, *value, str(process.pid)], capture_output=True, timeout=60)

        process.stdout.readline()
        control("-i", "on")
        for index in range(len(paths)):
            control("-z")
            process.stdin.write(f"{index} {calls}\n")
            process.stdin.flush()
            process.stdout.readline()
            control("-d")


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(errors="replace"), re.MULTILINE)
    return int(found[1]) if found else 0
