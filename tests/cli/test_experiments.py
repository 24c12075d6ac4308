"""experiments: what it says can be done."""

from pathlib import Path

import pytest

from bitplane.cli import main
from bitplane.train import data
from bitplane.train.errors import DataError

DESCRIPTION = """
title = "t"
[common]
data = "cifar10"
epochs = 1
[[group]]
name = "g"
columns = "method"
axes = { method = ["pc"] }
"""


@pytest.fixture
def description(tmp_path) -> Path:
    path = tmp_path / "d.toml"
    path.write_text(DESCRIPTION)
    return path


@pytest.mark.parametrize("download", [False, True])
def test_what_is_missing_is_downloaded_only_on_request(description, tmp_path, capsys, monkeypatch, download):
    asked = []

    def load(config):
        asked.append((config.data, config.data_dir, config.download))
        raise DataError("no intact cifar10 there; add --download to fetch it")

    monkeypatch.setattr(data, "load_data", load)
    options = ["-o", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "cifar"), *["--download"] * download]
    assert main(["experiments", str(description), *options]) == 2
    assert asked == [("cifar10", str(tmp_path / "cifar"), download)]
    assert "1 of 1 runs failed: no intact cifar10 there; add --download" in capsys.readouterr().err


def test_a_pattern_without_runs_names_the_nearest(description, tmp_path, capsys):
    assert main(["experiments", str(description), "-o", str(tmp_path / "runs"), "--only", "g/px-*"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--only g/px-* matches none of the 1 runs" in line
    assert "g/pc-e1" in line
