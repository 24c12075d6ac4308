"""A file cannot grow in memory far beyond its bytes: bombs are refused before protobuf builds them, real files are read."""

import importlib.util
import json
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
BOMBS = Path(__file__).with_name("bombs.py")


def load_bombs():
    spec = importlib.util.spec_from_file_location("bombs", BOMBS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bombs_are_of_every_kind():
    bombs = load_bombs()
    kinds = bombs.kinds()
    assert len(kinds) > 200
    assert {f.full_name for f in kinds.values()} >= {
        *("onnx.GraphProto.node", "onnx.GraphProto.input", "onnx.NodeProto.attribute", "onnx.AttributeProto.ints"),
        *("onnx.TensorProto.dims", "onnx.TensorProto.int32_data", "onnx.TensorShapeProto.dim", "onnx.ModelProto.functions"),
    }
    assert {len(path) for path in kinds} == set(range(1, bombs.DEPTH + 1))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_no_bomb_takes_more_than_four_times_its_bytes(tmp_path):
    """Every thirtieth kind, at the most entries that are accepted and at ten times as many; `bombs.py` measures all."""
    report = tmp_path / "bombs.json"
    command = [sys.executable, BOMBS, "--every", "30", "--json", report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["bombs"] >= 16
    assert found["worst"] <= 4
    assert any("entries would need" in row["said"] for row in found["rows"])
    assert any("format_version is missing" in row["said"] for row in found["rows"])  # the scan let it through


def test_a_bomb_is_refused_by_what_it_is():
    with pytest.raises(ModelError, match="its entries would need far more memory than its bytes"):
        InferenceSession(b"\x3a\x80\x89\x7a" + b"\x5a\0" * 1_000_000)  # a graph of a million inputs


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
