"""Kernels are compiled once a machine, kept where only their user can write, and loaded without numba."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from filelock import FileLock

from bitplane.runtime.errors import MachineCodeError
from bitplane.runtime.execute import code_cache, machine_code

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "tests" / "fixtures" / "format-1" / "ternary2.onnx"
posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes, sockets and links of POSIX")
SCRIPT = """
import sys
import numpy as np
from bitplane.runtime import InferenceSession
from bitplane.runtime.execute.machine_code import origin
print(float(InferenceSession(sys.argv[1]).run(None, {"input": np.full((1, 3, 32, 32), 99, np.uint8)})[0].sum()))
print(origin().compiled, "numba" in sys.modules)
"""


def start(folder, *more):
    environment = {**os.environ, "BITPLANE_CACHE_DIR": str(folder)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(MODEL), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def code():
    """The code of this machine, from the usual cache."""
    file = machine_code.origin().file
    assert file is not None
    return code_cache.read(file)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and a compiler that counts its calls and costs nothing."""
    real, calls = code_cache.read(machine_code.origin().file), []

    def compile_kernels():
        calls.append(1)
        return real

    monkeypatch.setenv("BITPLANE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_code, "compile_kernels", compile_kernels)
    return tmp_path / "cache", calls


def test_eight_processes_that_start_cold_at_once_compile_once_and_agree(tmp_path):
    processes = [start(tmp_path / "cache") for _ in range(8)]
    found = [p.communicate() for p in processes]
    assert [p.returncode for p in processes] == [0] * 8, found
    assert len({out.splitlines()[0] for out, _ in found}) == 1
    assert sum(out.splitlines()[1].startswith("True") for out, _ in found) == 1
    # A later process compiles nothing and does not even load numba.
    later = start(tmp_path / "cache")
    assert later.communicate()[0].splitlines() == [found[0][0].splitlines()[0], "False False"]
    (file,) = (tmp_path / "cache").glob("*.bin")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_file_is_found_again(fresh):
    folder, calls = fresh
    first, second = machine_code._find_or_compile(), machine_code._find_or_compile()
    assert (first[:3], first[3:]) == ((*second[:2], folder / f"kernels-{machine_code.key()}.bin"), (True, ""))
    assert second[3:] == (False, "")
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no magic"])
def test_a_damaged_file_is_compiled_anew(fresh, damage):
    _, calls = fresh
    file = machine_code._find_or_compile()[2]
    good = file.read_bytes()
    bad = {"truncated": good[:-7], "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], "empty": b"", "no magic": good[1:]}
    file.write_bytes(bad[damage])
    assert machine_code._find_or_compile()[3] is True
    assert file.read_bytes() == good
    assert len(calls) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are POSIX's")
def test_code_that_others_could_have_written_is_not_executed(fresh):
    folder, calls = fresh
    file = machine_code._find_or_compile()[2]
    file.chmod(0o622)
    assert machine_code._find_or_compile()[3] is True  # compiled, and the file replaced
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder.chmod(0o777)
    with pytest.warns(RuntimeWarning, match=r"can be written by others \(chmod go-w .*\); kernels are compiled anew in every"):
        found = machine_code._find_or_compile()
    assert found[2:] == (None, True, f"{folder} can be written by others (chmod go-w {folder})")
    assert len(calls) == 3


def test_a_link_in_place_of_the_file_is_not_followed(fresh, tmp_path):
    file = machine_code._find_or_compile()[2]
    file.rename(tmp_path / "elsewhere.bin")
    file.symlink_to(tmp_path / "elsewhere.bin")
    assert machine_code._find_or_compile()[3] is True


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_without_a_usable_folder_kernels_are_compiled_in_memory(fresh, monkeypatch, tmp_path, what):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("BITPLANE_CACHE_DIR", str(tmp_path / "taken" / ("" if what == "a file" else "below")))
    with pytest.warns(RuntimeWarning, match="cannot be made") as caught:
        symbol, code, file, compiled, problem = machine_code._find_or_compile()
    assert (file, compiled) == (None, True)
    assert problem
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    # What was compiled runs.
    _, run_plan = machine_code._link(symbol, code)
    run_plan(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0)


@pytest.fixture
def read_only(monkeypatch):
    """File systems on which no file can be made (also for root, whom modes do not stop)."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)


def test_a_folder_that_cannot_be_written_is_read_without_a_word(fresh, request):
    folder, calls = fresh
    file = machine_code._find_or_compile()[2]
    request.getfixturevalue("read_only")
    assert machine_code._find_or_compile()[2:] == (file, False, "")  # warnings are errors
    file.unlink()
    with pytest.warns(RuntimeWarning, match="cannot be written") as caught:
        found = machine_code._find_or_compile()
    assert found[2:] == (None, True, f"{folder} cannot be written (Read-only file system)")
    assert len(caught) == 1
    assert len(calls) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are POSIX's")
def test_a_folder_of_another_user_is_not_used(fresh, monkeypatch):
    _, calls = fresh
    machine_code._find_or_compile()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert machine_code._find_or_compile()[2:4] == (None, True)
    assert len(calls) == 2


def test_the_folder_is_the_users_or_numbas_or_the_one_that_is_named(monkeypatch, tmp_path):
    for name in ("BITPLANE_CACHE_DIR", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert code_cache.cache_folder() == platformdirs.user_cache_path("bitplane", appauthor=False)
    assert ROOT not in code_cache.cache_folder().parents  # not beside the package
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "n"))
    assert code_cache.cache_folder() == tmp_path / "n" / "bitplane"
    monkeypatch.setenv("BITPLANE_CACHE_DIR", "b")
    monkeypatch.chdir(tmp_path)
    assert code_cache.cache_folder() == tmp_path / "b"


def test_a_user_without_a_home_gets_no_folder_in_the_working_one(fresh, monkeypatch, tmp_path):
    for name in ("BITPLANE_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitplane.runtime.execute.code_cache.user_cache", lambda: Path("~/.cache/bitplane"))
    with pytest.warns(RuntimeWarning, match="no home folder"):
        assert machine_code._find_or_compile()[2:4] == (None, True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_written_all_the_same(fresh, monkeypatch):
    _, calls = fresh

    def acquire(self, timeout):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert machine_code._find_or_compile()[3:] == (True, "")
    assert machine_code._find_or_compile()[3:] == (False, "")
    assert len(calls) == 1


def plant(kind, file):
    """Something that is no file of machine code, in its place."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    if kind == "sparse":
        with file.open("wb") as f:
            f.truncate(1 << 40)
    elif kind == "closed":
        file.touch(mode=0)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(file))
    elif kind in ("folder", "full folder"):
        file.mkdir()
        if kind == "full folder":
            (file / "x").touch()
    else:
        {"pipe": os.mkfifo, "link": lambda p: p.symlink_to("/dev/zero"), "loop": lambda p: p.symlink_to(p.name)}[kind](file)


@posix
@pytest.mark.parametrize("kind", ["pipe", "sparse", "closed", "socket", "link", "loop"])
@pytest.mark.parametrize("place", ["file", "lock"])
def test_whatever_lies_in_a_files_place_is_neither_waited_for_nor_read(fresh, kind, place, tmp_path, monkeypatch):
    folder, calls = fresh
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    file = folder.relative_to(tmp_path) / f"kernels-{machine_code.key()}.bin"
    plant(kind, file if place == "file" else file.with_name(f"{file.name}.lock"))
    assert machine_code._find_or_compile()[3:] == (True, "")
    assert machine_code._find_or_compile()[3:] == (False, "")
    assert len(calls) == 1
    assert file.is_file()
    assert not file.is_symlink()


@posix
@pytest.mark.parametrize("kind", ["folder", "full folder"])
def test_a_folder_in_the_files_place_is_one_warning(fresh, kind):
    folder, _ = fresh
    plant(kind, folder / f"kernels-{machine_code.key()}.bin")
    with pytest.warns(RuntimeWarning, match=r"\.bin cannot be written \(Is a directory\); kernels are compiled anew") as caught:
        assert machine_code._find_or_compile()[2:4] == (None, True)
    assert len(caught) == 1


@pytest.fixture
def held(fresh, monkeypatch):
    """The lock of the file, held by somebody who does nothing, and processes that have no patience."""
    folder, _ = fresh
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(code_cache, "LOCK_SECONDS", 0)
    monkeypatch.setattr(code_cache, "LOOK_SECONDS", 0)
    with FileLock(folder / f"kernels-{machine_code.key()}.bin.lock") as lock:
        yield lock


def test_a_stopped_holder_of_the_lock_is_not_waited_for_for_ever(fresh, held):
    _, calls = fresh
    with pytest.warns(
        RuntimeWarning, match=r"another process has held .*\.lock for 0 s \(end it .*\); kernels were comp"
    ) as caught:
        assert machine_code._find_or_compile()[3:] == (True, "")
    assert len(caught) == 1
    assert machine_code._find_or_compile()[3:] == (False, "")  # the file is there although the lock is still held
    assert len(calls) == 1


def test_a_process_that_waits_takes_the_file_that_a_third_one_has_written(fresh, held, monkeypatch, code):
    folder, calls = fresh
    monkeypatch.setattr(machine_code, "_tell", lambda _: code_cache.write(folder / f"kernels-{machine_code.key()}.bin", *code))
    assert machine_code._find_or_compile()[3:] == (False, "")
    assert calls == []


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_kernels_that_cannot_be_loaded_are_one_line(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(machine_code, "_loaded", None)
    monkeypatch.setattr(machine_code, "_find_or_compile", fail)
    with pytest.raises(MachineCodeError, match=r"^the kernels [^\n]*$"):
        machine_code.load()


def test_numba_without_compiler_runs_what_was_compiled_and_says_why_it_cannot_compile(tmp_path):
    machine_code.load()
    for folder in (code_cache.cache_folder(), tmp_path / "empty"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "BITPLANE_CACHE_DIR": str(folder)}
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(MODEL)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if folder == tmp_path / "empty":
            assert done.returncode == 1
            last = done.stderr.splitlines()[-1]
            assert last.startswith("bitplane.runtime.errors.MachineCodeError: NUMBA_DISABLE_JIT is set and the kernels are not")
        else:
            assert done.stdout.splitlines()[1] == "False False", done.stderr


def test_no_model_compiles_anything(graphs, tmp_path):
    machine_code.load()  # the file is there from now on
    files = [*ROOT.glob("tests/fixtures/*/*.onnx")]
    for kind in ("Binary", "Ternary", "Quaternary"):
        for bits in (1, 2, 4, 8):
            builder = graphs.resnet(4, kind, bits, 64, (64, 128), 1, "B", 7, pool=True)
            files.append(tmp_path / f"{kind}{bits}.onnx")
            files[-1].write_bytes(builder.model().SerializeToString())
    code = """
import sys
sys.modules["numba"] = None  # importing it is an error from here on
import numpy as np
from bitplane.runtime import InferenceSession
for path in sys.argv[1:]:
    for threads in (1, 2):
        session = InferenceSession(path, threads=threads)
        (given,) = session.get_inputs()
        dtype = np.uint8 if given.type == "tensor(uint8)" else np.float32
        session.run(None, {"input": np.ones((3, *given.shape[1:]), dtype)})
"""
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_leaves_no_half_file(fresh, monkeypatch):
    folder, _ = fresh

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.warns(
        RuntimeWarning, match=r"\.bin cannot be written \(No space left.*\); kernels are compiled anew"
    ) as caught:
        _, _, file, compiled, problem = machine_code._find_or_compile()
    assert (file, compiled, len(caught)) == (None, True, 1)
    assert "No space left" in problem
    assert [p.name for p in folder.iterdir() if not p.name.endswith(".lock")] == []


def test_the_key_follows_the_processor_and_the_sources(monkeypatch):
    before = machine_code.key()
    assert before == machine_code.key()
    with monkeypatch.context() as m:
        m.setenv("NUMBA_CACHE_DIR", "elsewhere")
        assert machine_code.key() == before
        m.setenv("NUMBA_OPT", "0")  # code of another optimization is kept apart
        assert machine_code.key() != before
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse4.1")
    assert machine_code.key() != before
    monkeypatch.undo()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#")
    assert machine_code.key() != before


def test_linked_twice_the_code_gives_the_same_bits(code, check, graphs):
    builder = graphs.resnet(8, "Ternary", 2, 16, blocks=1)
    session = check(builder)
    images = builder.images(2)
    expected = session.run(None, {"input": images})[0]
    engine, session._idle[0]._run_plan = machine_code._link(*code)
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)
    assert engine is not None
