"""Commands about this machine say what they did, and where."""

import json
from pathlib import Path

from bitplane.cli import main
from bitplane.runtime import machine_code


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
