"""The walls between the rooms: what is packaged, and what each room may import."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("train", "export", "runtime", "benchmarks", "cli")

FORBIDDEN = [
    ("runtime", "import torch"),
    ("runtime", "import torchvision.models"),
    ("runtime", "from accelerate import Accelerator"),
    ("runtime", "import onnxruntime"),
    ("runtime", "from bitplane.train.levels import LEVELS"),
    ("runtime", "from bitplane import export"),
    ("runtime", "import bitplane.benchmarks"),
    ("runtime", "from bitplane.cli import main"),
    ("runtime", "from .session import InferenceSession"),
    ("train", "import onnx"),
    ("train", "import onnxruntime"),
    ("train", "from bitplane.runtime import format as fmt"),
    ("train", "from bitplane.export import export_run"),
    ("train", "import bitplane.benchmarks.measure"),
    ("train", "from bitplane import cli"),
    ("export", "from bitplane.runtime import InferenceSession"),
    ("export", "from bitplane.runtime.plan import make_plan"),
    ("export", "from bitplane.benchmarks.study import compare"),
    ("export", "import bitplane.cli"),
    ("benchmarks", "from bitplane.cli import main"),
    ("cli", "import torch"),
    ("cli", "from bitplane.train.models import ModelConfig"),
    ("cli", "from bitplane.runtime import InferenceSession"),
]

ALLOWED = [
    ("runtime", "import numba\nimport onnx"),
    ("train", "import torch\nfrom accelerate import Accelerator"),
    ("export", "import onnxruntime\n\nfrom bitplane.runtime import format as fmt\nfrom bitplane.train import levels"),
    (
        "benchmarks",
        "import onnxruntime\n\nfrom bitplane.export import export_run\nfrom bitplane.runtime import InferenceSession",
    ),
    ("cli", "def run() -> None:\n    from bitplane.train.loop import train"),
]


def complaints(room, source):
    """Ruff's answer to a module of that room, which need not exist."""
    name = str(ROOT / room / "probe.py")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID", "--output-format", "concise"]
    done = subprocess.run([*command, "--stdin-filename", name, "-"], input=source + "\n", capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if "TID" in line]


@pytest.mark.parametrize(("room", "line"), FORBIDDEN)
def test_ruff_refuses_an_import_through_a_wall(room, line):
    assert complaints(room, line)


@pytest.mark.parametrize(("room", "source"), ALLOWED)
def test_ruff_accepts_the_imports_that_a_room_may_have(room, source):
    assert complaints(room, source) == []


def test_the_packages_listed_are_those_in_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert sorted(listed) == sorted("bitplane." + ".".join(folder.parts) for folder in folders)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_typed(room):
    assert (ROOT / room / "py.typed").is_file()
    assert (ROOT / "typings" / "bitplane" / room).resolve() == ROOT / room


@pytest.mark.parametrize("module", ["bitplane.runtime", "bitplane.cli", "bitplane.cli.commands"])
def test_a_fresh_import_loads_neither_torch_nor_training(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    heavy = {"torch", "torchvision", "accelerate", "onnxruntime", "matplotlib", "sklearn"}
    others = {f"bitplane.{room}" for room in ROOMS} - {module, "bitplane.cli"}
    assert loaded.isdisjoint(heavy | others - {"bitplane.train"})
    # The options of a run are its dataclasses: nothing else of training is loaded for them.
    assert {m for m in loaded if m.startswith("bitplane.train.")} <= {
        f"bitplane.train.{m}" for m in ("config", "errors", "fields")
    }
