"""Files of every format version, written once, are still read and give the same logits."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bitplane.runtime import InferenceSession

FIXTURES = Path(__file__).resolve().parent / "fixtures"
FILES = sorted(FIXTURES.glob("format-*/*.onnx"))


def test_no_golden_file_has_changed() -> None:
    sums = [
        (folder, line.split())
        for folder in FIXTURES.glob("format-*")
        for line in (folder / "SHA256SUMS").read_text().splitlines()
    ]
    assert {folder / name for folder, (_, name) in sums} == {*FILES, *FIXTURES.glob("format-*/*.npz")}
    for folder, (digest, name) in sums:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("engine", [InferenceSession, onnxruntime.InferenceSession], ids=["bitplane", "onnxruntime"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_file_gives_its_stored_logits(path: Path, engine: type) -> None:
    stored = np.load(path.with_suffix(".npz"), allow_pickle=False)
    logits = engine(path).run(None, {"input": stored["input"]})[0]
    np.testing.assert_allclose(logits, stored["logits"], atol=1e-5, rtol=1e-5)
