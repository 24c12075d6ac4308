"""`bitplane verify`: what it says of files that are whole and of those that are not. Signatures: `test_export.py`."""

import json
from pathlib import Path

from bitplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "fixtures" / "format-1.4" / "whole.onnx"
OLD = ROOT / "tests" / "fixtures" / "format-1.3" / "clip.onnx"


def test_verify_says_what_was_checked(tmp_path, capsys) -> None:
    assert main(["verify", str(FILE), "--json", str(tmp_path / "v.json")]) == 0
    out = capsys.readouterr().out
    digest = json.loads((tmp_path / "v.json").read_text())["file_sha256"]
    assert f"{FILE}: the whole file matches its checksum {digest}" in out
    assert digest.encode() in FILE.read_bytes()
    assert "no signature was asked for" in out
    assert main(["verify", str(OLD)]) == 0
    assert "clip.onnx: the weights match their checksum; format 1.3 has none of the rest" in capsys.readouterr().out


def test_verify_refuses_an_altered_file_in_one_line(tmp_path, capsys) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(FILE.read_bytes()[:-1] + b"\0")
    assert main(["verify", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: bitplane.file_sha256 is " in line
