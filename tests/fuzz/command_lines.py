"""Any command line ends in a result (0) or in one line on standard error (2): never a trace, a hang or half a file.

    python tests/fuzz/command_lines.py --count 2000 --json lines.json

Lines are drawn from the options that the parser has, with wrong and odd values (`grammar.py`), in a folder of everything that a
path can be (`things.py`), in one process with limits on address space and on the time of each line. What would take minutes,
training steps and measurements, ends the line as accepted where it would begin.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from grammar import Option, lines
from hypothesis import HealthCheck, Phase, given, seed, settings
from things import lay_out, snapshot

ADDRESS_SPACE = 12 << 30
SECONDS = 60
"""Time that a line may take."""

GOOD = {
    ("export", "--output"): ["--output", "new.onnx"],
    ("report", "--output"): ["--output", "new"],
    ("study", "--output"): ["--output", "new"],
    ("experiments", "--output"): ["--output", "new"],
    ("train", "--output"): ["--output", "new"],
    ("export", ""): ["run"],
    ("experiments", ""): ["experiment.toml"],
    ("study", ""): ["study.toml"],
    ("report", ""): ["study.json"],
}


class Begun(BaseException):
    """The line was accepted: its long work begins."""


class Late(BaseException):
    """The line took too long."""


def good(command: str, option: Option) -> list[str]:
    """A good value of a required option."""
    return GOOD.get((command, option.flag), ["model.onnx"] + ["image.png"] * option.many * 0)


def begun(*args: Any, **kwargs: Any) -> NoReturn:
    raise Begun


def without_long_work() -> None:
    """Replace what takes minutes or reaches for a network."""
    import torchvision

    import bitplane.benchmarks.measuring.instructions as instructions
    import bitplane.benchmarks.measuring.kernels as kernels
    import bitplane.benchmarks.measuring.training as training
    import bitplane.benchmarks.study as study
    import bitplane.train.loop as loop

    def offline(self: Any) -> NoReturn:
        raise OSError("no network here")

    torchvision.datasets.CIFAR10.download = offline
    loop._train_epoch = study.take_turns = kernels.measure_kernels = training.measure_training = begun
    instructions.available = lambda: False


def outcome(line: list[str]) -> tuple[str, str]:
    """What became of a line: a word, and why if it is a fault."""
    from bitplane.cli import main

    out, err = io.StringIO(), io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    code: int | None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(line)
    except Begun:
        return "begun", ""
    except Late:
        return "fault: too long", traceback.format_exc()[-1500:]
    except BaseException:
        return "fault: traceback", traceback.format_exc()[-2500:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if code == 0:
        return "done", ""
    if code != 2:
        return f"fault: exit code {code}", err.getvalue()[-500:]
    said = err.getvalue()
    shown = said.splitlines()
    if not said and not line[1:]:
        return "refused", ""
    if not said.endswith("\n") or not all(s.isprintable() for s in shown) or said.count("\n") != len(shown):
        return "fault: not printable", repr(said[:500])
    if "For full helptext" in said:
        return "refused by the parser", ""
    if len(shown) != 1 or not said.startswith("bitplane: "):
        return "fault: not one line", said[:1500]
    return "refused", ""


def left_behind(before: dict[str, Any], after: dict[str, Any], word: str) -> str:
    """What a line must not leave: half a file, a changed file although it was refused."""
    new = sorted(after.keys() - before.keys())
    if halves := [n for n in new if n.endswith(".tmp") or "/.tmp" in n]:
        return f"left {halves}"
    changed = sorted(n for n in before.keys() & after.keys() if before[n] != after[n]) + sorted(before.keys() - after.keys())
    if changed and word.startswith("refused"):
        return f"refused, but changed {changed}"
    return ""


def try_lines(count: int, first: int) -> dict[str, Any]:
    """Draw and try lines; each begins in the same folder."""
    home = Path(tempfile.mkdtemp(prefix="lines-"))
    pristine = home / "pristine"
    pristine.mkdir()
    paths = lay_out(pristine)
    without_long_work()
    words: Counter[str] = Counter()
    by_command: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    different: set[tuple[str, ...]] = set()
    state: dict[str, Any] = {"folder": None}

    def fresh() -> None:
        os.chdir(home)
        if state["folder"]:
            shutil.rmtree(state["folder"])
        folder = Path(tempfile.mkdtemp(dir=home))
        shutil.rmtree(folder)
        os.system(f"cp -a {pristine} {folder}")
        state.update(folder=folder, before=snapshot(folder))
        os.chdir(folder)

    @seed(first)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(lines(paths, good))
    def each(line: list[str]) -> None:
        if state["folder"] is None:
            fresh()
        os.chdir(state["folder"])
        begin = time.monotonic()
        word, why = outcome(line)
        took = time.monotonic() - begin
        after = snapshot(state["folder"])
        if not word.startswith("fault") and (problem := left_behind(state["before"], after, word)):
            word, why = "fault: left behind", problem
        if after != state["before"]:
            fresh()
        words[word] += 1
        different.add(tuple(line))
        by_command[line[0] if len(line[0]) < 20 else "?"] += 1
        if word.startswith("fault"):
            faults.append({"line": [w[:80] for w in line], "word": word, "why": why})
            say(f"{word}: {[w[:80] for w in line]}\n{why[-700:]}\n")
        elif took > 10:
            say(f"{took:.0f} s: {line}")

    def late(*args: Any) -> NoReturn:
        raise Late

    signal.signal(signal.SIGALRM, late)
    each()
    os.chdir("/")
    shutil.rmtree(home)
    return {
        "count": sum(words.values()),
        "different": len(different),
        "outcomes": dict(words),
        "commands": dict(by_command),
        "faults": faults,
    }


def say(line: str) -> None:
    sys.__stdout__.write(line.encode("ascii", "backslashreplace").decode() + "\n")
    sys.__stdout__.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = args.json.resolve() if args.json else None
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    random.seed(args.seed)
    found = try_lines(args.count, args.seed)
    text = json.dumps(found, indent=1)
    say(json.dumps({k: v for k, v in found.items() if k != "faults"}))
    if report:
        report.write_text(text)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
