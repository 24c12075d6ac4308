"""Files of a description: paths and patterns, relative and absolute."""

from dataclasses import replace

import pytest

from bitplane.benchmarks import peers
from bitplane.benchmarks.description import find_files, read_description
from bitplane.benchmarks.errors import PeerError, StudyError


@pytest.fixture
def folder(tmp_path):
    for name in ("a1.onnx", "a2.onnx", "b.onnx", "c[1].onnx"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a3.onnx").mkdir()
    return tmp_path


@pytest.mark.parametrize("absolute", [False, True])
def test_patterns_name_files_relative_or_absolute_each_once(folder, absolute):
    patterns = ["b.onnx", "a*.onnx", "*.onnx"]
    given = [str(folder / p) for p in patterns] if absolute else patterns
    found = find_files(folder, given, "here")
    assert [p.name for p in found] == ["b.onnx", "a1.onnx", "a2.onnx", "c[1].onnx"]


def test_a_file_is_itself_before_it_is_a_pattern(folder):
    assert [p.name for p in find_files(folder, ["c[1].onnx"], "here")] == ["c[1].onnx"]


@pytest.mark.parametrize("pattern", ["x*.onnx", "a3.onnx", "/no/such/*.onnx", "", "\0"])
def test_a_pattern_without_a_file_is_refused(folder, pattern):
    with pytest.raises(StudyError, match=r"^here: "):
        find_files(folder, [pattern], "here")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rounds = 0", "rounds"),
        ("seconds = nan", "seconds"),
        ("seconds = -1.0", "seconds"),
        ("threads = [0]", "threads"),
        ("batch = 32", "batch"),
    ],
)
def test_a_measure_that_cannot_be_used_is_refused_by_name(tmp_path, line, words):
    path = tmp_path / "d.toml"
    path.write_text(f'title = "t"\n[measure]\n{line}\n[[group]]\nname = "g"\nlayers = ["binary/1 8x8"]\n')
    with pytest.raises(StudyError, match=words):
        read_description(path)


def test_an_engine_from_outside_takes_part_after_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", dict(peers.PEERS))
    monkeypatch.setattr("bitplane.benchmarks.description.PEERS", peers.PEERS)
    path = tmp_path / "d.toml"
    path.write_text('title = "t"\n[[group]]\nname = "g"\npacked = ["*.onnx"]\nengines = ["mine"]\n')
    with pytest.raises(StudyError, match="no engine is called 'mine'"):
        read_description(path)
    peer = peers.Peer("my.module", "packed")
    peers.register("mine", peer)
    assert read_description(path).group[0].engines == ["mine"]
    with pytest.raises(PeerError, match="an engine is called 'mine' already"):
        peers.register("mine", replace(peer, variant="other"))


def test_every_row_of_the_tables_has_its_module():
    import importlib.util

    for peer in (*peers.PEERS.values(), *peers.LAYER_PEERS.values()):
        modules = [peer.module, *([peer.conversion.module] if peer.conversion else [])]
        assert all(importlib.util.find_spec(m) for m in modules)
