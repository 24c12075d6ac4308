"""Files in other forms belong to what they were made of; energy is that of a call."""

from pathlib import Path

import numpy as np
import pytest

from bitplane.benchmarks import machine
from bitplane.benchmarks.contest import Contest
from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.forms import make_form

ROOT = Path(__file__).resolve().parents[2]


def test_a_form_is_made_anew_when_its_source_changes_and_never_left_half_made(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 32, 32), np.uint8))
    source, folder = tmp_path / "m.onnx", tmp_path / "files"
    folder.mkdir()
    found = []
    for fixture in ("binary1", "ternary2", "binary1"):
        source.write_bytes((ROOT / "tests" / "fixtures" / "format-1" / f"{fixture}.onnx").read_bytes())
        found.append(make_form("inlined", source, tmp_path / "images.npy", folder))
    assert found[0] == found[2] != found[1]
    source.write_bytes(b"no model")
    with pytest.raises(PeerError, match="conversion: "):
        make_form("inlined", source, tmp_path / "images.npy", folder)
    assert sorted(folder.iterdir()) == sorted(set(found))


def test_energy_is_divided_by_every_call_of_a_turn(monkeypatch):
    class Worker:
        def ask(self, message):
            return {"ms": [1.0, 1.0, 1.0], "warm": 2}

    counter = iter([0, 10_000])  # microjoules
    monkeypatch.setattr(machine, "energy_uj", lambda: next(counter))
    contest = Contest({"a": {}}, 1, 0.01, times={"a": []})
    contest._turn({"a": Worker()}, "a")
    assert contest.energy == {"a": [2.0]}  # millijoules of a call
