"""Coverage-guided fuzzing of what strangers give, by atheris (libFuzzer), from the seeds in `corpus`.

    python tests/fuzz/run.py                       every target, some seconds each
    python tests/fuzz/run.py pixels --runs 1000000 --json fuzz.json

A target is a file in `targets` whose `check` takes bytes and raises if its promise is broken. Each runs in a process of its own
with limits on address space and on the time of an input; warnings are errors. Where atheris is not installed (extra `fuzz`),
the seeds and random changes of them are tried instead, without guidance.
"""

import argparse
import importlib
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "fixtures"
ADDRESS_SPACE = 8 << 30
SECONDS = 20
"""Time that an input may take."""
LONGEST = {"pixels": 20_000, "model": 60_000, "checkpoint": 20_000}
"""Bytes of the longest input; 4,000 elsewhere."""
RUNS = {"checkpoint": 120, "experiment": 800, "model": 4000, "options": 200, "pixels": 3000, "results": 500, "stored_run": 800}
"""Executions of two or three seconds; 2,000 elsewhere."""


def seeds(folder: Path, name: str) -> list[Path]:
    """Files that a target starts from."""
    if name == "model":
        return [p for p in sorted(MODELS.glob("format-*/*.onnx")) if p.stat().st_size < LONGEST[name]]
    return sorted((folder / "corpus" / name).iterdir())


def work(folder: Path, name: str, runs: int, corpus: str) -> None:
    """A child: try `runs` inputs."""
    sys.path[:0] = [str(folder), str(HERE)]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import atheris
    except ImportError:
        check = _check(name)
        _unguided(check, seeds(folder, name), runs)
        return
    with atheris.instrument_imports(include=["bitplane", "tomllib", "targets"], enable_loader_override=False):
        check = _check(name)
    options = [f"-runs={runs}", f"-max_len={LONGEST.get(name, 4000)}", f"-timeout={SECONDS}", "-rss_limit_mb=6000", "-seed=1"]
    atheris.Setup(
        [sys.argv[0], *options, "-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={corpus}-fault-", corpus], check
    )
    atheris.Fuzz()


def _check(name: str) -> Callable[[bytes], None]:
    found = importlib.import_module(f"targets.{name}").check
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("error")
    return found


def _unguided(check: Callable[[bytes], None], files: list[Path], runs: int) -> None:
    rng, given = random.Random(0), [p.read_bytes() for p in files]
    for data in given:
        check(data)
    for _ in range(runs - len(given)):
        changed = bytearray(rng.choice(given))
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.choice((0, 1, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        check(bytes(changed))
    print(f"stat::number_of_executed_units: {runs}")  # noqa: T201


def fuzz(folder: Path, name: str, runs: int, keep: Path | None = None) -> dict[str, Any]:
    """Fuzz a target: executions, coverage (edges and features of our bytecode) and its fault, if any."""
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary) / "corpus"
        corpus.mkdir()
        for seed in seeds(folder, name):
            shutil.copy(seed, corpus / seed.name)
        command = [sys.executable, __file__, name, "--child", str(corpus), "--runs", str(runs), "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        said = done.stdout + done.stderr
        for fault in Path(temporary).glob("corpus-fault-*"):
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(fault, keep / f"{name}-{fault.name}")
    tried = re.findall(r"number_of_executed_units: (\d+)", said)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    found: dict[str, Any] = {"target": name, "executions": int(tried[-1]) if tried else 0}
    found |= {"edges": int(covered[-1][0]), "features": int(covered[-1][1])} if covered else {}
    found |= {"edges_of_seeds": int(m[1])} if (m := re.search(r"INITED\s+cov: (\d+)", said)) else {}
    return found | {"fault": said[-3000:] if done.returncode else ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="default: all")
    parser.add_argument("--runs", type=int, help="executions of each target")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for inputs that broke a promise")
    parser.add_argument("--folder", type=Path, default=HERE, help="where `targets` and `corpus` are")
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        work(args.folder, args.targets[0], args.runs, args.child)
        return 0
    found = []
    for name in args.targets or sorted(p.stem for p in (args.folder / "targets").glob("*.py")):
        found.append(fuzz(args.folder, name, args.runs or RUNS.get(name, 2000), args.keep))
        sys.stdout.write(json.dumps(found[-1]) + "\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 1 if any(f["fault"] for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
