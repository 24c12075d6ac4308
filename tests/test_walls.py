"""The walls between rooms and stages: what is packaged, and what each may import. `MAY_IMPORT` is their only home.

The test reads every import of every module. Rows are prefixes: a module belongs to the longest row that it starts with, and may
import its own row, the standard library and what the row lists (prefixes too).
"""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"": "bitplane", "train": "train", "export": "export", "runtime": "runtime", "benchmarks": "benchmarks"}
"""Name below `bitplane` to folder."""

MAY_IMPORT = {
    "bitplane": set(),
    "bitplane.format": {"bitplane.errors", "numpy", "onnx"},
    "bitplane.pixels": {"bitplane.errors", "bitplane.format", "numpy", "PIL"},
    "bitplane.atomic": {"bitplane.errors"},
    "bitplane.signature": {"bitplane.errors", "bitplane.format", "model_signing"},
    "bitplane.documents": {"bitplane.errors", "bitplane.format", "msgspec"},
    "bitplane.cli": {"bitplane", "tyro", "numpy", "msgspec"},
    "bitplane.train": {
        "bitplane.atomic",
        "bitplane.errors",
        "bitplane.format.errors",
        "bitplane.format.files",
        "bitplane.format.levels",
        "bitplane.format.limits",
        "bitplane.documents",
        "bitplane.pixels",
        *("msgspec", "torch", "torchvision", "accelerate", "safetensors", "sklearn", "numpy", "tqdm", "filelock"),
    },
    "bitplane.export": {
        *("bitplane.atomic", "bitplane.errors", "bitplane.format", "bitplane.export", "bitplane.signature"),
        *("numpy", "onnx", "onnxruntime", "torch"),
    },
    "bitplane.export.nodes": {
        *(
            "bitplane.format",
            "bitplane.export.errors",
            "bitplane.export.graph",
            "bitplane.export.network",
            "bitplane.export.qonnx",
        ),
        *("numpy", "onnx", "onnxruntime", "torch"),
    },
    "bitplane.export.passes": {
        *("bitplane.format", "bitplane.export.errors", "bitplane.export.network", "bitplane.export.nodes"),
        *("bitplane.train.quantizers", "numpy", "torch"),
    },
    "bitplane.export.read": {
        *("bitplane.format", "bitplane.export.errors", "bitplane.export.network", "bitplane.export.nodes"),
        *("bitplane.export.passes", "bitplane.export.qonnx", "bitplane.export.verify"),
        *("bitplane.train.checkpoint", "bitplane.train.data", "bitplane.train.layers", "bitplane.train.models"),
        *("bitplane.train.activations", "bitplane.train.weights", "numpy", "onnx", "torch", "google"),
    },
    "bitplane.export.write": {
        *(
            "bitplane.format",
            "bitplane.export.errors",
            "bitplane.export.graph",
            "bitplane.export.network",
            "bitplane.export.nodes",
        ),
        *("bitplane.export.qonnx", "bitplane.export.verify", "onnx"),
    },
    # The stages of the runtime, in the order of the data: each may import what stands above it.
    "bitplane.runtime.errors": {"bitplane.errors"},
    "bitplane.runtime.layouts": set(),
    "bitplane.runtime.process": set(),
    "bitplane.runtime.kernels": {"bitplane.format.levels", "numba", "llvmlite"},
    "bitplane.runtime.instructions": {
        *("bitplane.runtime.kernels.fields", "bitplane.runtime.kernels.shapes", "bitplane.runtime.layouts", "numpy"),
    },
    "bitplane.runtime.operators": {
        *("bitplane.format", "bitplane.runtime.errors", "bitplane.runtime.layouts", "bitplane.runtime.instructions"),
        *("numpy", "onnx"),
    },
    "bitplane.runtime.model": {
        *("bitplane.format", "bitplane.signature", "bitplane.runtime.errors", "bitplane.runtime.operators"),
        *("numpy", "onnx", "google"),
    },
    "bitplane.runtime.plan": {
        *(
            "bitplane.errors",
            "bitplane.format",
            "bitplane.runtime.errors",
            "bitplane.runtime.layouts",
            "bitplane.runtime.process",
        ),
        *("bitplane.runtime.instructions", "bitplane.runtime.operators", "bitplane.runtime.model"),
        *("bitplane.runtime.kernels.fields", "bitplane.runtime.kernels.shapes", "bitplane.runtime.kernels.target", "numpy"),
    },
    "bitplane.runtime.execute": {
        *("bitplane.atomic", "bitplane.format.levels", "bitplane.runtime.errors"),
        *("bitplane.runtime.plan", "bitplane.runtime.kernels"),
        *("numpy", "llvmlite", "filelock", "platformdirs"),
    },
    "bitplane.runtime.inspect": {
        *("bitplane.format", "bitplane.runtime.errors", "bitplane.runtime.layouts", "bitplane.runtime.instructions"),
        *("bitplane.runtime.operators", "bitplane.runtime.model", "bitplane.runtime.plan", "bitplane.runtime.execute"),
        *("bitplane.runtime.kernels", "numpy", "numba", "llvmlite"),
    },
    "bitplane.runtime": {
        *("bitplane.atomic", "bitplane.errors", "bitplane.format", "bitplane.runtime", "numpy"),
    },
    "bitplane.benchmarks": {
        *("bitplane.errors", "bitplane.format", "bitplane.train", "bitplane.export", "bitplane.runtime", "bitplane.benchmarks"),
        *("bitplane.documents", "numpy", "onnx", "onnxruntime", "torch", "tqdm"),
        *("matplotlib", "bokeh", "jinja2", "msgspec", "scipy"),
    },
    "bitplane.benchmarks.peers": {
        *("bitplane.errors", "bitplane.format", "bitplane.train", "bitplane.runtime", "bitplane.benchmarks"),
        *("numpy", "onnx", "onnxruntime", "torch", "openvino", "nncf", "onnx2torch", "bnn"),
        *("ai_edge_litert", "ai_edge_quantizer", "litert_torch"),
    },
}

PUBLIC = {
    ("bitplane", "bitplane.export"),
    ("bitplane", "bitplane.format.levels"),
    ("bitplane", "bitplane.runtime"),
    *(("bitplane", f"bitplane.train.{m}") for m in ("activations", "finish", "level_sets", "methods", "optimizer", "prepare")),
    ("bitplane.export.exporter", "bitplane.runtime"),
}
"""(module, what it imports) beside the table: the import root loads public names on first use, and the exporter loads what it
wrote, so as not to leave a file that the runtime refuses."""

LAZY = {
    "bitplane.export": {"bitplane.runtime"},
    "bitplane.cli": {
        *("bitplane.train", "bitplane.export", "bitplane.runtime", "bitplane.benchmarks", "bitplane.pixels"),
        *("numpy", "msgspec"),
    },
    "bitplane.pixels": {"numpy", "PIL"},
    "bitplane.runtime.model": {"bitplane.signature"},
    "bitplane.signature": {"model_signing"},
}
"""What a row imports only inside of functions: `bitplane --help` stays fast, and the plain install works without torch."""

SIGNING = {"bitplane.signature", "model_signing", "cryptography"}
"""Loaded only where a signature is asked for."""

OPTIONS = {"bitplane.train.config", "bitplane.train.errors"}
"""The options of a run are its dataclasses, which the command line needs at once."""


def modules():
    """(name, path) of every module of the package."""
    for room, folder in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [p for p in path.relative_to(ROOT / folder).with_suffix("").parts if p != "__init__"]
            yield ".".join(["bitplane", *([room] if room else []), *parts]), path


def imports(source):
    """(imported module, whether at the top of the file) of a module's text."""
    tree = ast.parse(source)
    top = {id(n) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and n in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name if name in NAMES else node.module, id(node) in top) for name in inside)


MODULES = dict(modules())
NAMES = set(MODULES)


def starts(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def row_of(name):
    return max((row for row in MAY_IMPORT if starts(name, row)), key=len)


def trespasses(name, source):
    """Imports of a module that no row allows."""
    row, found = row_of(name), []
    for imported, at_top in imports(source):
        if imported.partition(".")[0] in sys.stdlib_module_names | {"_typeshed"}:
            continue
        own = starts(imported, row) and row_of(imported) == row
        if not own and (name, imported) not in PUBLIC and not any(starts(imported, a) for a in MAY_IMPORT[row]):
            found.append(imported)
        elif at_top and imported not in OPTIONS and any(starts(imported, lazy) for lazy in LAZY.get(row, ())):
            found.append(f"{imported} at the top of the file")
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_row_allows(name):
    assert trespasses(name, MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bitplane.runtime.probe", "import torch"),
        ("bitplane.runtime.probe", "from bitplane.train import methods"),
        ("bitplane.runtime.probe", "from bitplane import export"),
        ("bitplane.runtime.kernels.probe", "from bitplane.runtime.plan import cost"),
        ("bitplane.runtime.operators.probe", "from bitplane.runtime.plan.memory import Memory"),
        ("bitplane.runtime.plan.probe", "from bitplane.runtime.execute import machine_code"),
        ("bitplane.runtime.plan.probe", "from bitplane.runtime.kernels.epilogue import run_epilogue"),
        ("bitplane.runtime.execute.probe", "from bitplane.runtime.inspect.trace import trace"),
        ("bitplane.train.probe", "import onnx"),
        ("bitplane.train.probe", "def f():\n    from bitplane.runtime import InferenceSession"),
        ("bitplane.export.probe", "from bitplane.runtime.session import InferenceSession"),
        ("bitplane.export.exporter", "def f():\n    from bitplane.runtime.session import InferenceSession"),
        ("bitplane.export.exporter", "from bitplane.runtime import InferenceSession"),
        ("bitplane.export.verify", "def f():\n    from bitplane.runtime import InferenceSession"),
        ("bitplane.format.probe", "from bitplane.runtime import errors"),
        ("bitplane.benchmarks.probe", "from bitplane.cli import main"),
        ("bitplane.cli.probe", "from bitplane.train.loop import train"),
        ("bitplane.cli.probe", "import torch"),
        ("bitplane", "import numpy"),
    ],
)
def test_a_way_through_a_wall_is_found(name, line):
    assert trespasses(name, line)


def test_the_table_names_what_is_there():
    rows = set(MAY_IMPORT) | {a for allowed in MAY_IMPORT.values() for a in allowed if a.startswith("bitplane")}
    assert all(any(starts(name, row) for name in MODULES) for row in rows)


def test_the_packages_listed_are_those_in_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert sorted(listed) == sorted(packages)


@pytest.mark.parametrize("folder", ROOMS.values())
def test_every_room_is_typed(folder):
    assert (ROOT / folder / "py.typed").is_file()


@pytest.mark.parametrize(
    "folder",
    [
        "__init__.py",
        "errors.py",
        "pixels.py",
        "atomic.py",
        "documents.py",
        "signature.py",
        "format",
        "cli",
        *(f for f in ROOMS.values() if f != "bitplane"),
    ],
)
def test_the_type_checker_finds_every_room(folder):
    home = ROOT / folder if folder in ROOMS.values() else ROOT / "bitplane" / folder
    assert (ROOT / "typings" / "bitplane" / folder).resolve() == home


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("bitplane", {"torch", "numba", "numpy", "onnx", *SIGNING}),
        ("bitplane.runtime", {"torch", "numba", "onnxruntime", "tyro", "bitplane.train", "bitplane.export", *SIGNING}),
        ("bitplane.cli", {"torch", "numba", "onnxruntime", "matplotlib", "sklearn", "bitplane.runtime", "bitplane.export"}),
    ],
)
def test_a_fresh_import_loads_only_what_it_needs(module, unwanted):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert loaded.isdisjoint(unwanted)
    # The options of a run are its dataclasses: nothing else of training is loaded for them.
    assert {m for m in loaded if m.startswith("bitplane.train.")} <= {
        f"bitplane.train.{m}" for m in ("config", "errors", "sources", "tables", "validation")
    }


def errors():
    """Every exception class that the package defines."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            bases = {ast.unparse(base) for base in getattr(node, "bases", ())} if isinstance(node, ast.ClassDef) else set()
            if any(base.rpartition(".")[2].endswith(("Error", "Exception")) for base in bases):
                yield name, node.name


@pytest.mark.parametrize(("module", "error"), [e for e in errors() if e[1] != "BitplaneError"])
def test_every_error_of_ours_has_one_root(module, error):
    from bitplane import BitplaneError

    loaded = pytest.importorskip(module)
    assert issubclass(getattr(loaded, error), BitplaneError)


def test_there_is_one_root_of_errors():
    assert [e for e in errors() if e[1] == "BitplaneError"] == [("bitplane.errors", "BitplaneError")]
