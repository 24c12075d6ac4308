"""Commands about this machine say what they did, and where."""

import json
from pathlib import Path

import pytest

from bitplane.cli import main
from bitplane.runtime.execute import machine_code

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "format-1" / "binary1.onnx"


def test_warmup_names_the_file_its_size_and_the_time(capsys, tmp_path):
    file = machine_code.origin().file
    assert file is not None
    assert main(["warmup", "--json", str(tmp_path / "w.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{file} ({file.stat().st_size} bytes)" in line
    assert " s; " in line
    assert Path(json.loads((tmp_path / "w.json").read_text())["file"]) == file


def test_warmup_that_could_not_keep_the_kernels_says_so_before_it_compiles(capsys, tmp_path, monkeypatch):
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "taken").write_text("")
    for name, words in (("open", "can be written by others"), ("taken", "cannot be made")):
        monkeypatch.setenv("BITPLANE_CACHE_DIR", str(tmp_path / name))
        monkeypatch.setattr(machine_code, "origin", None)
        assert main(["warmup"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert "BITPLANE_CACHE_DIR" in line


def test_profile_writes_a_trace_with_the_work_and_the_share_of_the_register_loop(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", str(MODEL), "--profile", "t.json", "--json", "p.json"]) == 0
    out = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", "t.json"]
    rows = json.loads((tmp_path / "p.json").read_text())["steps"]
    assert sum(r["share"] for r in rows) == pytest.approx(1)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [e["name"] for e in events[: len(rows)]] == [r["name"] for r in rows]
    for event, row in zip(events, rows, strict=False):
        assert event["ph"] == "X"
        assert {"pid", "tid", "ts", "dur"} < set(event)
        assert event["args"]["multiply_adds"] == row["multiply_adds"]
        popcount = row["product"] == "popcount"
        assert popcount == row["kernel"].startswith("popcount")
        assert (row["of_limit"] is not None, "median_of_register_loop" in event["args"]) == (popcount, popcount)
        assert row["name"] in out
