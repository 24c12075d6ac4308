"""Faults injected as sqlite does it: the n-th call fails, for n = 1, 2, 3, ... until an operation meets no fault.

    python tests/faults/run.py --json faults.json                 # every n up to 200 of a kind, and 200 spread over the rest
    python tests/faults/run.py --only save --kinds write fsync     # some of them
    python tests/faults/run.py --most 8                            # what the tests run

`shim.c` lies between the process and the C library, so that calls of Python, torch, protobuf and safetensors are all seen. Each
attempt is a forked child: the n-th call fails (or that and all later ones), the operation ends in its result, in one line of a
`BitplaneError`, or in a MemoryError, its folder holds nothing half written and what it held, and the next attempt, without
faults, gives the result of an undisturbed one. An attempt that a library ends with a signal because it got no memory is counted
by itself ("killed"), and so is one in which Python or a library raises something else for want of memory ("other words"): the
folder must hold, and the next attempt succeed.
"""

import argparse
import ctypes
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KINDS = {
    "open": (1, ("EACCES", "EIO", "EMFILE", "EINTR")),
    "read": (2, ("EIO", "EINTR")),
    "write": (4, ("ENOSPC", "EIO", "EINTR")),
    "fsync": (8, ("ENOSPC", "EIO", "EINTR")),
    "rename": (16, ("EACCES", "EIO", "ENOSPC")),
    "mkdir": (32, ("EACCES", "ENOSPC")),
    "mmap": (64, ("ENOMEM",)),
    "stat": (128, ("EACCES", "EIO")),
    "unlink": (256, ("EACCES", "EIO")),
    "flock": (512, ("ENOLCK", "EINTR")),
    "list": (1024, ("EACCES", "EIO")),
    "close": (2048, ("EIO",)),
    "malloc": (4096, ("ENOMEM",)),
    "large malloc": (8192, ("ENOMEM",)),
    "thread": (16384, ("EAGAIN",)),
}
"""Kind of call: its bit in shim.c, and what it fails with."""
LEFT_BY = {"unlink", "list", "rename", "open", "stat", "close"}
"""Kinds of which each failing for good may leave temporaries: nobody can remove them. The next attempt does."""
MEMORY = {"malloc", "large malloc", "mmap"}
OTHER_WORDS = {"TypeError", "RuntimeError", "ValueError", "SystemError", "PanicException", "ImportError", "AssertionError"}
"""What Python and libraries raise where they mean a MemoryError, such as "path should be string, not PosixPath"."""
HELD = ("result", "refused", "no memory", "other words", "killed")
SECONDS = 40
"""After which an attempt is thought to hang."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run in a forked child: its exit status, negative for a signal, and what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.alarm(SECONDS)
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            os._exit(0)
        except BaseException as e:
            with suppress(BaseException):
                say(f"harness: {type(e).__name__}: {e}")
            os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(text) if text and status == 0 else None


def numbers(count: int, most: int) -> list[int]:
    """1 to `most`, and as many between there and `count`."""
    if count <= 2 * most:
        return list(range(1, count + 1))
    return [*range(1, most + 1), *(most + (i + 1) * (count - most) // most for i in range(most))]


class Harness:
    """All attempts at one operation.

    Args:
        name: of the operation.
        library: the shim.
        home: a folder for copies.
    """

    def __init__(self, name: str, library: Any, home: Path) -> None:
        from operations import OPERATIONS

        self.operation, self.library, self.home = OPERATIONS[name], library, home
        self.template = home / "template"
        self.template.mkdir()
        self._do(lambda: self.operation.prepare(self.template))
        self.expected, loaded = self._do(lambda: (self._undisturbed(self._copy("first")), list(sys.modules)))
        for module in loaded:  # what a child imports it imports at every attempt
            with suppress(Exception):
                importlib.import_module(module)

    def _do(self, work: Callable[[], Any]) -> Any:
        status, found = in_child(work)
        assert status == 0, f"the operation fails without faults: {status}"
        return found

    def _copy(self, name: str) -> Path:
        folder = self.home / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        return folder

    def _undisturbed(self, folder: Path) -> Any:
        return as_json(self.operation.act(folder, self.operation.ready(folder)))

    def calls(self, kind: int) -> int:
        """Calls of a kind that the operation makes."""
        return int(self._do(lambda: self._attempt(self._copy("count"), kind, 0, 0, False)[2]))

    def _attempt(self, folder: Path, kind: int, nth: int, error: int, for_good: bool) -> tuple[str, str, int, int]:
        """Outcome, what was said, calls seen, and faults."""
        from bitplane.errors import BitplaneError

        given = self.operation.ready(folder)
        outcome, text = "result", ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.library.fault_arm(kind, nth, error, int(for_good))
            try:
                found = self.operation.act(folder, given)
                self.library.fault_disarm()
            except BitplaneError as e:
                self.library.fault_disarm()
                outcome, text = "refused" if len(str(e).splitlines()) == 1 else "several lines", str(e)
            except MemoryError:
                self.library.fault_disarm()
                outcome = "no memory"
            except BaseException as e:
                self.library.fault_disarm()
                outcome, text = type(e).__name__, str(e)
        if outcome == "result" and as_json(found) != self.expected:
            outcome = "wrong result"
        return outcome, text, self.library.fault_seen(), self.library.fault_fired()

    def _judge(self, folder: Path, may_leave: bool) -> str:
        """What is wrong with a folder after an attempt; "" if nothing."""
        left = [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp")]
        try:
            if left and not may_leave:
                return f"left {left[0]}"
            for path in folder.rglob(".*.tmp") if left else ():
                path.rename(folder.parent / path.name) if path.exists() else None
            self.operation.whole(folder)
        except BaseException as e:
            return f"not whole: {type(e).__name__}: {e}"
        try:
            if self._undisturbed(folder) != self.expected:
                return "the next attempt has another result"
        except BaseException as e:
            return f"the next attempt fails: {type(e).__name__}: {e}"
        return ""

    def one(self, kind: str, nth: int, error: str, for_good: bool) -> tuple[str, str]:
        """Outcome of an attempt: a word of HELD, or a fault with its words."""
        folder = self._copy("attempt")
        bit = KINDS[kind][0]
        may_leave = (for_good and kind in LEFT_BY) or kind == "malloc"

        def work() -> Any:
            outcome, text, _, fired = self._attempt(folder, bit, nth, getattr(errno, error), for_good)
            return (outcome, text, fired, self._judge(folder, may_leave) if fired else "")

        status, found = in_child(work)
        if status == 0 and found[3].startswith("the next attempt fails") and kind in MEMORY:
            status, found[3] = in_child(lambda: self._judge(folder, True))  # a library keeps its error: in a process of its own
        if status == 0:
            outcome, text, fired, problem = found
            if not fired:
                return "no fault", ""
            if not problem and kind in MEMORY and outcome in OTHER_WORDS:
                return "other words", f"{outcome}: {text}"
            return (problem, text) if problem else (outcome, text)
        if status == -signal.SIGALRM:
            return "hangs", ""
        status_after, problem = in_child(lambda: self._judge(folder, True))
        if status_after != 0 or problem:
            return f"ended with {status}, then {problem or status_after}", ""
        return ("killed" if "malloc" in kind or kind in ("mmap", "thread") else f"ended with {status}"), f"by {status}"


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda x: x.hex() if isinstance(x, bytes) else list(x)))


def attempts(harness: Harness, kinds: list[str], most: int) -> Iterator[tuple[str, int, str, bool, str, str]]:
    for kind in kinds:
        bit, errors = KINDS[kind]
        count = harness.calls(bit)
        for for_good in (False, True):
            if for_good and kind == "malloc":
                continue  # not even an error can be raised
            for nth in numbers(count, most):
                for error in errors if most > 20 or for_good is False else errors[:1]:
                    if for_good and error == "EINTR":
                        continue  # a call that is interrupted is repeated: for ever
                    yield (kind, nth, error, for_good, *harness.one(kind, nth, error, for_good))


def serve(options: argparse.Namespace) -> int:
    """What the process under the shim does."""
    sys.path.insert(0, str(HERE))
    from operations import OPERATIONS

    library = ctypes.CDLL(options.shim)
    library.fault_seen.restype = library.fault_fired.restype = ctypes.c_long
    library.fault_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    import torch

    from bitplane.runtime.execute import machine_code

    machine_code.load()
    torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))  # reads the processor's description, once
    table, faults, named = dict[str, dict[str, dict[str, int]]](), list[str](), list[str]()
    for name in options.only or OPERATIONS:
        started, table[name] = time.monotonic(), {}
        with tempfile.TemporaryDirectory(prefix="bitplane-faults-") as home:
            harness = Harness(name, library, Path(home))
            for kind, nth, error, for_good, outcome, text in attempts(harness, options.kinds, options.most):
                if outcome == "no fault":
                    continue
                held = outcome in HELD
                row = Counter(table[name].get(kind, {}))
                row.update({"tried": 1, "held": int(held), outcome if held else "faults": 1})
                table[name][kind] = dict(row)
                if outcome in ("killed", "other words"):
                    named.append(f"{name}: {kind} {nth}{' and all later ones' if for_good else ''}: {text}")
                if not held:
                    more = " and all later ones" if for_good else ""
                    faults.append(f"{name}: {kind} {nth}{more} fails with {error}: {outcome}: {' '.join(text.split())[:300]}")
                    say(faults[-1])
        total = Counter[str]()
        for row in table[name].values():
            total.update(row)
        say(f"{name}: {dict(total)} in {time.monotonic() - started:.0f} s")
        if options.json:
            options.json.write_text(json.dumps({"operations": table, "faults": faults, "named": named}, indent=1) + "\n")
    return int(bool(faults))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", help="operations; default: all")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="kinds of calls; default: all")
    parser.add_argument("--most", type=int, default=200, help="numbers n of a kind that are tried one by one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shim", help="used by the script itself")
    options = parser.parse_args()
    if options.shim:
        return serve(options)
    if not shutil.which("cc"):
        say("needs a C compiler (cc)")
        return 77
    with tempfile.TemporaryDirectory(prefix="bitplane-faults-") as folder:
        shim = Path(folder, "shim.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", shim, HERE / "shim.c", "-ldl", "-lpthread"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"}
        environment |= {"OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
        command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, "--shim", str(shim), *sys.argv[1:]]
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
