"""Files in other formats belong to what they were made of."""

from pathlib import Path

import numpy as np
import pytest

from bitplane.benchmarks.conversion import convert
from bitplane.benchmarks.errors import PeerError
from bitplane.benchmarks.peers import INLINED

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_made_anew_when_its_source_changes_and_never_left_half_made(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 32, 32), np.uint8))
    source, folder = tmp_path / "m.onnx", tmp_path / "files"
    folder.mkdir()
    found = []
    for fixture in ("binary1", "ternary2", "binary1"):
        source.write_bytes((ROOT / "tests" / "fixtures" / "format-1" / f"{fixture}.onnx").read_bytes())
        found.append(convert(INLINED, source, tmp_path / "images.npy", folder))
    assert found[0] == found[2] != found[1]
    source.write_bytes(b"no model")
    with pytest.raises(PeerError, match="conversion: "):
        convert(INLINED, source, tmp_path / "images.npy", folder)
    assert sorted(folder.iterdir()) == sorted(set(found))
