"""Rows of the open tables that installed packages bring by entry points."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from bitplane.export.qonnx import runnable
from bitplane.format.levels import LEVEL_SETS
from bitplane.runtime import InferenceSession
from bitplane.train import tables
from bitplane.train.activations import ACTIVATION_QUANTIZERS
from bitplane.train.config import ModelConfig, OptimizerConfig
from bitplane.train.errors import ConfigError
from bitplane.train.level_sets import WEIGHT_LEVELS
from bitplane.train.methods import METHODS

MODULE = """
from bitplane.format.levels import level_set
from bitplane.train.activations import LearnedStep
from bitplane.train.methods import METHODS

uniform = level_set("uniform4", [-1, -1 / 3, 1 / 3, 1])
same_as_bc = METHODS["bc"]
number = 3

def three(channels):
    return LearnedStep(3)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts packages on the path: name to {group: {entry point: value}}; their module is `rows_of_NAME`."""
    before = [(table, dict(table)) for table in (METHODS, WEIGHT_LEVELS, ACTIVATION_QUANTIZERS)]

    def add(name, groups, source=MODULE):
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"rows_of_{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, rows in groups.items()
            for line in (f"[bitplane.{group}]", *(f"{k} = rows_of_{name}:{value}" for k, value in rows.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)
        tables._plugins.cache_clear()
        return site

    yield add
    monkeypatch.undo()
    tables._plugins.cache_clear()
    for table, rows in before:
        table.clear()
        table.update(rows)


def test_a_row_of_an_installed_package_is_known_by_its_name_and_loaded_when_looked_up(install):
    rows = {"level_sets": {"uniform4": "uniform"}, "methods": {"bc2": "same_as_bc"}, "activations": {"3": "three"}}
    install("tiny", rows)
    config = ModelConfig(weights="uniform4", layer_weights=("layer3.*=uniform4",), activations=3)
    assert OptimizerConfig(method="bc2").method == "bc2"
    assert "rows_of_tiny" not in sys.modules
    assert WEIGHT_LEVELS[config.weights].integers == (-3, -1, 1, 3)
    assert METHODS["bc2"] is METHODS["bc"]
    assert ACTIVATION_QUANTIZERS[3](16).bits == 3
    with pytest.raises(ConfigError) as error:
        ModelConfig(weights="six")
    assert str(error.value) == "`weights` (='six') must be one of binary, ternary, quaternary, float, uniform4"
    with pytest.raises(KeyError):
        WEIGHT_LEVELS["six"]


def test_packages_are_not_looked_at_for_names_that_the_package_has(install, monkeypatch):
    install("tiny", {"level_sets": {"uniform4": "uniform"}})
    monkeypatch.setattr(tables, "_plugins", lambda option: pytest.fail("scanned"))
    ModelConfig(weights="quaternary", activations=4)
    assert WEIGHT_LEVELS["quaternary"] is LEVEL_SETS["quaternary"]


def test_a_built_in_row_stays_what_it_is(install):
    install("tiny", {"level_sets": {"ternary": "uniform", "mixed": "uniform"}, "methods": {"pc": "same_as_bc"}})
    assert WEIGHT_LEVELS["ternary"] is LEVEL_SETS["ternary"]
    assert METHODS["pc"] is not METHODS["bc"]
    with pytest.raises(ConfigError, match=r"must be one of binary, ternary, quaternary, float$"):
        ModelConfig(weights="mixed")


@pytest.mark.parametrize(
    ("source", "name", "value", "complaint"),
    [
        ("raise OSError('no\\nlicense')", "mine", "x", "cannot be loaded (OSError: no license); repair or uninstall it"),
        (MODULE, "mine", "absent", "cannot be loaded (AttributeError: module 'rows_of_bad' has no attribute 'absent'); repair"),
        (MODULE, "mine", "number", "is a int, not a LevelSet; repair or uninstall it"),
        (MODULE, "mine", "uniform", "calls itself uniform4; both names must be the same"),
    ],
)
def test_a_broken_package_is_named_in_one_line(install, source, name, value, complaint):
    install("bad", {"level_sets": {name: value}}, source)
    sys.modules.pop("rows_of_bad", None)
    assert ModelConfig(weights=name).weights == name  # it is there
    with pytest.raises(ConfigError) as error:
        WEIGHT_LEVELS[name]
    assert str(error.value).startswith(f"`weights` {name} of package `bad` (entry point {name} = rows_of_bad:{value}) ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_of_two_packages_is_refused(install):
    install("one", {"level_sets": {"uniform4": "uniform"}})
    install("two", {"level_sets": {"uniform4": "uniform"}})
    with pytest.raises(ConfigError, match=r"`weights` uniform4 comes from `\w+` and `\w+`; uninstall all but one"):
        WEIGHT_LEVELS["uniform4"]


def test_the_command_line_trains_and_exports_with_rows_of_a_package(install, pictures, tmp_path):
    site = install("tiny", {"level_sets": {"uniform4": "uniform"}, "methods": {"bc2": "same_as_bc"}})
    run = str(tmp_path / "run")
    options = ["--data", str(pictures), "--epochs", "1", "--weights", "uniform4", "--method", "bc2", "--batch-size", "16"]
    commands = [["train", "--output", run, *options]]
    for form in ("packed", "dequantized", "qonnx"):
        commands.append(["export", run, "--form", form, "-o", str(tmp_path / f"{form}.onnx")])
    code = "\n".join(
        (
            f"import json, sys; sys.path.insert(0, {str(site)!r})",
            "from bitplane.cli import main",
            "sys.exit(max(main(command) for command in json.loads(sys.argv[1])))",
        )
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = onnx.load(tmp_path / "packed.onnx")
    assert {p.key: p.value for p in file.metadata_props}["bitplane.level_set"] == "uniform4"
    assert [list(a.ints) for n in file.graph.node for a in n.attribute if a.name == "levels"] == [[1, 3]] * 18
    pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 16, 16)).astype(np.uint8)
    found = InferenceSession(tmp_path / "packed.onnx").run(None, {"input": pixels})[0]
    for form in ("packed", "dequantized", "qonnx"):
        session = onnxruntime.InferenceSession(runnable(onnx.load(tmp_path / f"{form}.onnx")).SerializeToString())
        given = pixels.astype(np.float32) if form == "qonnx" else pixels
        logits = session.run(None, {"input": given})[0]
        same = np.abs(logits - found).max(1) <= 2e-5 * (np.abs(found).max() + 1)
        assert same.mean() >= (1 if form == "packed" else 0.7), form  # a float sum may round to another code
