"""A file cannot grow in memory far beyond its bytes: bombs are refused before protobuf builds them, real files are read."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from bitplane.runtime import InferenceSession, ModelError
from bitplane.runtime.model import scan

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
COUNT = 600_000


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def nested(content, *numbers):
    """`content` inside of length-delimited fields, the outermost first."""
    for number in reversed(numbers):
        content = varint(number << 3 | 2) + varint(len(content)) + content
    return content


def repeated(descriptor, path=(), depth=1):
    """Paths of field numbers to every repeated field of messages, texts or numbers, a few messages deep."""
    for field in descriptor.fields:
        if field.is_repeated:
            yield (*path, field.number), field
        if field.message_type is not None and depth and field.message_type is not descriptor:
            yield from repeated(field.message_type, (*path, field.number), depth - 1)


BOMBS = {
    **dict(repeated(onnx.ModelProto.DESCRIPTOR)),
    **dict(repeated(onnx.NodeProto.DESCRIPTOR, (7, 1), 0)),
    **dict(repeated(onnx.TensorProto.DESCRIPTOR, (7, 5), 0)),
}


def bomb(path, field):
    """A model whose repeated field has millions of entries of the fewest bytes."""
    *outer, number = path
    if field.message_type is None and field.cpp_type != field.CPPTYPE_STRING:
        return nested(nested(bytes(2 * COUNT), number), *outer)  # packed numbers of a byte each
    return nested((varint(number << 3 | 2) + b"\0") * COUNT, *outer)


def test_the_bombs_are_of_every_kind():
    assert len(BOMBS) > 30
    assert {(7, 11), (7, 1), (7, 5), (14,), (25,), (7, 13), (7, 1, 1), (7, 1, 5), (7, 5, 5), (7, 5, 7)} <= set(BOMBS)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_no_bomb_takes_more_than_its_bound(tmp_path):
    """In one process whose address space is limited: every bomb is refused in one line, and memory stays below the bound."""
    for path, field in BOMBS.items():
        (tmp_path / "-".join(map(str, path))).write_bytes(bomb(path, field))
    code = """
import resource, sys, warnings
from pathlib import Path
import onnx, numpy
from bitplane.runtime.errors import ModelError
from bitplane.runtime.model.parse import parse
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
start = peak()
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        parse(file)
        print(file.name, "accepted")
    except ModelError as error:
        assert "\\n" not in str(error)
    if peak() - start > 4 * file.stat().st_size + (160 << 20):
        print(file.name, peak() - start)
        break
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bomb_is_refused_by_what_it_is():
    with pytest.raises(ModelError, match="its entries would need far more memory than its bytes"):
        InferenceSession(bomb((7, 11), BOMBS[7, 11]))


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("format-*/*.onnx")), ids=lambda f: f.name)
def test_real_files_are_within_the_bound_even_without_its_allowance_of_small_ones(file, monkeypatch):
    monkeypatch.setattr(scan, "WORST_GROWTH", 1 << 40)
    scan.scan(file.read_bytes())


@given(data=st.binary(max_size=300))
def test_any_bytes_are_scanned_or_refused(data):
    scan_all = scan.WORST_GROWTH
    scan.WORST_GROWTH = 1 << 60
    try:
        scan.scan(data)
    except (ValueError, MemoryError):
        pass
    finally:
        scan.WORST_GROWTH = scan_all


@given(cut=st.integers(1, 100_000))
def test_a_truncated_message_is_found(cut, monkeypatch_module):
    data = onnx.ModelProto(ir_version=8, graph=helper.make_graph([], "g" * 500, [], [])).SerializeToString()
    with pytest.raises(ValueError, match=r"wire type|longer than|does not end"):
        scan.scan(data[: -(1 + cut % (len(data) - 3))])


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as m:
        m.setattr(scan, "WORST_GROWTH", 1 << 40)
        yield m


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match=r"pipe\.onnx: is not a regular file"):
        InferenceSession(tmp_path / "pipe.onnx")


@pytest.mark.parametrize("path", ["/dev/zero", "."])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(ModelError, match=r"is not a regular file|Is a directory"):
        InferenceSession(path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_a_model_loads_where_a_process_may_have_one_gigabyte():
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_000_000 << 10, 1_000_000 << 10))
from bitplane.runtime.model.parse import parse
from pathlib import Path
print(len(parse(Path(sys.argv[1])).nodes))
"""
    file = FIXTURES / "format-1" / "ternary2.onnx"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads' stacks are address space too
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
