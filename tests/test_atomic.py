"""Files and folders are whole or not there, and what a killed writer left goes with the next one."""

import os
import signal
import subprocess
import sys

import pytest

from bitplane import atomic
from bitplane.errors import BitplaneError

posix = pytest.mark.skipif(sys.platform == "win32", reason="locks, signals and links of POSIX")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def killed(code, *arguments):
    """Run code in a process that kills itself."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)])
    assert done.returncode == -signal.SIGKILL


def test_a_file_is_replaced_with_the_permissions_of_any_new_file(tmp_path):
    path = tmp_path / "file"
    for data in (b"older", b"", b"x" * 1_000_000):
        atomic.write_file(path, data, BitplaneError)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["file"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["x" * 255, "ж" * 127, ".hidden", "a b\n.tmp"])
def test_every_name_that_a_folder_can_hold_can_be_written(tmp_path, name):
    atomic.write_file(tmp_path / name, b"data", BitplaneError)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch, call, error):
    path, real = tmp_path / "file", getattr(os, call)
    path.write_bytes(b"older")

    def fail(*arguments, **named):
        if call == "write":
            real(arguments[0], bytes(arguments[1])[:3])
        raise error

    monkeypatch.setattr(os, call, fail)
    expected = BitplaneError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match=r"file: cannot be written \(No space left.*\); free some" if error.args else None):
        atomic.write_file(path, b"newer", BitplaneError)
    monkeypatch.undo()
    assert names(tmp_path) == ["file"]
    assert path.read_bytes() == b"older"


@posix
def test_a_planted_link_is_neither_followed_nor_removed(tmp_path, monkeypatch):
    victim, path, planted = tmp_path / "victim", tmp_path / "file", iter([b"\0" * 8, b"\1" * 8])
    victim.write_bytes(b"precious")
    link = tmp_path / f".file.{'00' * 8}.tmp"
    link.symlink_to(victim)
    monkeypatch.setattr(os, "urandom", lambda _: next(planted))
    with pytest.raises(BitplaneError, match="File exists"):
        atomic.write_file(path, b"data", BitplaneError)  # the name was guessed: refused
    atomic.write_file(path, b"data", BitplaneError)
    assert victim.read_bytes() == b"precious"
    assert link.is_symlink()
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("needs pipes with names")
        os.mkfifo(path)
    else:
        if not os.path.exists("/dev/null"):
            pytest.skip("needs /dev/null")
        path.symlink_to("/dev/null")
    with pytest.raises(BitplaneError, match="thing: exists and is not a regular file; choose another path"):
        atomic.write_file(path, b"data", BitplaneError)
    assert names(tmp_path) == ["thing"]


@posix
def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from bitplane import atomic
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = kill
if sys.argv[2] == "file":
    atomic.replace_file(Path(sys.argv[1]), b"half")
else:
    with atomic.new_folder(Path(sys.argv[1])) as folder:
        (folder / "x").write_bytes(b"half")
"""
    for kind, name in (("file", "model.onnx"), ("folder", "run"), ("file", "other")):
        killed(code, tmp_path / name, kind)
    assert len(names(tmp_path)) == 3
    atomic.write_file(tmp_path / "model.onnx", b"whole", BitplaneError)
    with atomic.new_folder(tmp_path / "run") as folder:
        (folder / "x").write_bytes(b"whole")
    assert len(names(tmp_path)) == 3
    assert [n for n in names(tmp_path) if not n.startswith(".other.")] == ["model.onnx", "run"]  # others' stay
    atomic.sweep(tmp_path)
    assert names(tmp_path) == ["model.onnx", "run"]


@posix
def test_what_a_living_writer_writes_is_not_swept(tmp_path, monkeypatch):
    fsync, swept = os.fsync, []

    def sweep_meanwhile(handle):
        if not swept:
            swept.append(1)
            atomic.sweep(tmp_path)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sweep_meanwhile)
    atomic.write_file(tmp_path / "file", b"data", BitplaneError)
    swept.clear()
    with atomic.new_folder(tmp_path / "folder") as folder:
        (folder / "x").write_bytes(b"data")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "x").read_bytes() == b"data"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("nth", [1, 2])
def test_a_folder_that_cannot_be_renamed_leaves_the_older_one(tmp_path, monkeypatch, nth):
    rename, calls, path = os.rename, [], tmp_path / "folder"

    def fail(*arguments):
        calls.append(1)
        if len(calls) == nth:
            raise OSError(5, "Input/output error")
        rename(*arguments)

    path.mkdir()
    (path / "x").write_bytes(b"older")
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), atomic.new_folder(path) as folder:
        (folder / "x").write_bytes(b"newer")
    assert names(tmp_path) == ["folder"]
    assert (path / "x").read_bytes() == b"older"


@posix
def test_a_folder_is_removed_at_once(tmp_path):
    code = """
import os, shutil, signal, sys
from pathlib import Path
from bitplane import atomic
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
atomic.remove_folder(Path(sys.argv[1]))
"""
    (tmp_path / "epoch-0001").mkdir()
    (tmp_path / "epoch-0001" / "x").touch()
    killed(code, tmp_path / "epoch-0001")
    assert not (tmp_path / "epoch-0001").exists()
    atomic.sweep(tmp_path)
    assert names(tmp_path) == []
