"""An engine with a file open, in a process of its own (`worker.py`)."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

from bitplane.benchmarks.errors import PeerError


class Worker:
    """A running `bitplane.benchmarks.measuring.worker`.

    Attributes:
        ready: what it said of its start; "total" is milliseconds from its creation to its first result.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        command = [sys.executable, "-m", "bitplane.benchmarks.measuring.worker", json.dumps(spec)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1
        )
        try:
            self.ready: dict[str, Any] = self._read()["ready"]
        except PeerError:
            self.close()
            raise
        self.ready["total"] = (time.perf_counter() - start) * 1e3

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for the answer.

        Raises:
            PeerError: it died.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        lines = [s.strip() for s in self._errors.read().decode(errors="replace").splitlines() if s.strip()]
        last = lines[-1] if lines else "no message"
        raise PeerError(f"killed by signal {-code}: {last}" if code < 0 else last)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def cold_starts(spec: Mapping[str, Any], starts: int) -> list[dict[str, Any]]:
    """Start a worker `starts` times and end it: what each said of its start.

    Raises:
        PeerError: it cannot start.
    """
    found: list[dict[str, Any]] = []
    for _ in range(starts):
        worker = Worker(spec)
        found.append(worker.ready)
        worker.close()
    return found
