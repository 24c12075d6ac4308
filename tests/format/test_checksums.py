"""The digest of a whole file, beside the code that FORMAT.md gives for it."""

import hashlib
import re
from pathlib import Path

import onnx
import pytest

from bitplane.format.checksums import file_sha256, serialize

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "fixtures" / "format-1.4" / "whole.onnx"
OLD = ROOT / "tests" / "fixtures" / "format-1.3" / "clip.onnx"
KEY = "bitplane.file_sha256"


def test_the_code_of_the_page_accepts_files_and_refuses_altered_ones(tmp_path, monkeypatch) -> None:
    page = (ROOT / "bitplane" / "format" / "FORMAT.md").read_text()
    (code,) = re.findall(r"^    data = .*\n(?:    .*\n)+", page, re.MULTILINE)
    code = "\n".join(line[4:] for line in code.splitlines())
    monkeypatch.chdir(tmp_path)
    for data in (FILE.read_bytes(), serialize(onnx.load(OLD))):
        Path("model.onnx").write_bytes(data)
        exec(code, {"hashlib": hashlib, "Path": Path})
    Path("model.onnx").write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(AssertionError):
        exec(code, {"hashlib": hashlib, "Path": Path})


def test_a_file_that_onnx_reads_and_writes_keeps_its_digest(tmp_path) -> None:
    onnx.save(onnx.load(FILE), tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == FILE.read_bytes()


def test_serializing_again_changes_nothing_but_what_was_edited() -> None:
    model = onnx.load(FILE)
    assert serialize(model) == FILE.read_bytes()
    next(p for p in model.metadata_props if p.key == "bitplane.dataset").value = "other"
    edited = serialize(model)
    written, found = file_sha256(edited) or ("", "")
    assert written == found
    again = onnx.load_model_from_string(edited)
    assert [(p.key, p.value) for p in again.metadata_props if p.key != KEY] == [
        (p.key, p.value) for p in model.metadata_props if p.key != KEY
    ]
    assert again.graph == model.graph


@pytest.mark.parametrize("text", [KEY, f"a {KEY} b"])
def test_a_model_whose_texts_contain_the_key_is_not_written(text) -> None:
    model = onnx.load(FILE)
    model.doc_string = text
    with pytest.raises(ValueError, match=r"a text in the model contains 'bitplane\.file_sha256'"):
        serialize(model)


def test_bytes_without_the_key_carry_no_digest() -> None:
    assert file_sha256(OLD.read_bytes()) is None
    assert file_sha256(b"") is None


@pytest.mark.parametrize("change", ["twice", "cut", "head", "length"])
def test_a_key_in_another_form_is_no_digest(change) -> None:
    data = FILE.read_bytes()
    at = data.index(KEY.encode())
    changed = {
        "twice": data + KEY.encode(),
        "cut": data[: at + 85],
        "head": data[at:],
        "length": data[: at + 21] + b"\x41" + data[at + 22 :],
    }[change]
    with pytest.raises(ValueError):  # noqa: PT011  bare: who reads files says it in words
        file_sha256(changed)
