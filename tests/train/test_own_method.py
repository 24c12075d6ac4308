"""The page on a method of one's own: its package, its description and its command, run as they stand there."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "own-method.md").read_text()


def block(name: str) -> str:
    """The indented lines under the name of a file."""
    found = re.search(rf"^`{re.escape(name)}`\n\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE)
    assert found, name
    return re.sub(r"^    ", "", found[1], flags=re.MULTILINE).strip() + "\n"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as pip leaves it: the module, and the metadata that its pyproject.toml asks for."""
    project = tomllib.loads(block("pyproject.toml"))
    assert project["tool"]["setuptools"]["py-modules"] == ["halfway"]
    site, name = tmp_path / "site", project["project"]["name"]
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (site / "halfway.py").write_text(block("halfway.py"))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['project']['version']}\n")
    groups = project["project"]["entry-points"].items()
    lines = [line for group, rows in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in rows.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


def test_the_tutorial_is_twenty_lines_at_most():
    assert sum(bool(line.strip()) for name in ("pyproject.toml", "halfway.py") for line in block(name).splitlines()) <= 20


def test_the_commands_of_the_page_train_the_method_and_compare_it_with_the_others(installed: Path, tmp_path: Path):
    """With one epoch and one seed; the page's own budget takes minutes."""
    (tmp_path / "compare.toml").write_text(block("compare.toml"))
    commands = [m.split()[1:] for m in re.findall(r"^    (bitplane .+)$", PAGE, re.MULTILINE)]
    assert [c[0] for c in commands] == ["train", "experiments"]
    small = [["--epochs", "1"], ["--epochs", "1", "--only", "*s0-ternary*", "--json", "compare.json"]]
    code = "\n".join(
        (
            "import json, sys, bitplane, torch; from bitplane.cli import main",
            "model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)); bitplane.prepare(model)",
            "bitplane.ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, method='half-way', steps=3)",
            "sys.exit(max(main(c) for c in json.loads(sys.argv[1])))",
        )
    )
    given = json.dumps([[*c, *s] for c, s in zip(commands, small, strict=True)])
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, given],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "one" / "final" / "result.json").read_text())
    assert result["epochs"] == 1
    row = re.search(r"^\| weights \| half-way \| pc \| bc \|\n.*\n\| ternary \| (.+?) \| (.+?) \| (.+?) \|$",
                    (tmp_path / "compare.md").read_text(), re.MULTILINE)  # fmt: skip
    assert row
    assert all(re.fullmatch(r"\d+\.\d\d \(1\)", cell) for cell in row.groups())


def test_the_quantizer_of_the_page_is_a_proximal_map():
    """Monotone, and half-way between the level and what ProxConnect gives; the oracle is written out for {-1, 0, 1}."""
    from bitplane.format.levels import LEVEL_SETS

    names: dict[str, object] = {}
    exec(block("halfway.py"), names)
    unit = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    values = names["quantizer"](unit, LEVEL_SETS["ternary"], 1e9)  # type: ignore[operator]
    assert bool((values.diff() >= 0).all())
    away = (unit.abs() - 0.5).abs() > 1e-3
    torch.testing.assert_close(values[away], unit[away].clamp(-1, 1).round())
