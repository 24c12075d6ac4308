"""Studies: descriptions, contests of real processes, results, reports."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bitplane.benchmarks import peers
from bitplane.benchmarks.candidates import Sources
from bitplane.benchmarks.description import read_description
from bitplane.benchmarks.errors import PeerError, StudyError
from bitplane.benchmarks.images import Images
from bitplane.benchmarks.measuring import machine
from bitplane.benchmarks.measuring.process import Worker
from bitplane.benchmarks.report.html import html
from bitplane.benchmarks.report.markdown import markdown
from bitplane.benchmarks.report.tables import cells, columns
from bitplane.benchmarks.results import read_study, schema, to_json
from bitplane.benchmarks.study import run_study
from bitplane.runtime import InferenceSession

ROOT = Path(__file__).resolve().parents[2]
PACKED = ROOT / "tests" / "fixtures" / "format-1.1" / "ternary4.onnx"
MINI = f"""
title = "Mini"
about = "A <b>study</b> of | everything."
[measure]
threads = [1]
rounds = 3
seconds = 0.002
starts = 1
batch_size = 4
[[group]]
name = "mini"
data = "noise"
packed = ["{PACKED}"]
shared = ["{PACKED}"]
float = "{ROOT / "examples" / "resnet20-cifar10-float.onnx"}"
engines = ["bitplane", "onnxruntime float32", "onnxruntime, packed file", "OpenVINO int8", "LiteRT float32", "torch eager"]
baseline = "onnxruntime, packed file"
[[group]]
name = "layers"
layers = ["ternary/1 64x8"]
engines = ["bitplane", "register loop"]
"""


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return Images(
        "noise",
        rng.integers(0, 256, (8, 3, 32, 32), np.uint8),
        (rng.integers(0, 256, (60, 3, 32, 32), np.uint8), np.arange(60) % 10),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("study")
    (folder / "mini.toml").write_text(MINI)
    with pytest.MonkeyPatch.context() as patch:
        # One engine is missing, one fails, one cannot convert.
        table, module = peers.PEERS, "bitplane.benchmarks.peers.openvino"
        patch.setitem(table, "LiteRT float32", replace(table["LiteRT float32"], install="no-such-package"))
        patch.setitem(table, "torch eager", peers.Peer("no_such_module", "float"))
        broken = peers.Conversion("no_such_converter", "", ".nothing")
        patch.setitem(table, "OpenVINO int8", peers.Peer(module, "float", broken))
        seen = []
        sources = Sources(folder, folder / "files", lambda _: images)
        found = run_study(read_description(folder / "mini.toml"), sources, seen.append)
    assert [len(s.groups) for s in seen] == [1, 2]
    return found


def test_every_engine_that_runs_is_measured_in_every_way(study, images):
    rows = {r.engine: r for r in study.groups[0].rows}
    own = InferenceSession(PACKED).run(None, {"input": images.test[0]})[0]
    right = float((own.argmax(1) == images.test[1]).mean())
    for engine in ("bitplane", "onnxruntime, packed file"):
        r = rows[engine]
        assert (r.error, r.images, r.stream.rounds) == ("", 60, 3)
        assert r.top1 == right  # the same values in both engines
        assert 0 < r.stream.ms.low <= r.stream.ms.value <= r.stream.ms.high
        assert r.stream.ms.value <= r.stream.p90 <= r.stream.p99 or r.stream.calls < 20
        assert r.offline.images_per_second.value > 0
        assert r.start.total > r.start.imports + r.start.load + r.start.first > 0
        assert r.version
        assert r.faster is not None
    assert rows["bitplane"].bytes == PACKED.stat().st_size
    assert rows["onnxruntime, packed file"].faster.value == 1
    assert rows["onnxruntime float32"].weights == "float32"


def test_an_engine_that_is_missing_or_fails_is_a_row_with_the_reason(study):
    rows = {r.engine: r for r in study.groups[0].rows}
    assert rows["LiteRT float32"].error == "not installed: pip install no-such-package"
    assert "No module named 'no_such_module'" in rows["torch eager"].error
    assert rows["OpenVINO int8"].error.startswith("conversion: ")
    for engine in ("LiteRT float32", "torch eager", "OpenVINO int8"):
        assert rows[engine].stream is rows[engine].top1 is rows[engine].offline is rows[engine].start is None
    assert len(rows) == 6


def test_a_layer_is_given_in_multiply_adds_beside_the_register_loop(study):
    g = study.groups[1]
    rows = {r.engine: r for r in g.rows}
    work = 64 * 64 * 9 * 64
    assert rows["bitplane"].product in ("popcount", "look-up", "bytes")  # by the machine
    assert rows["bitplane"].gmacs == pytest.approx(work / rows["bitplane"].stream.ms.value / 1e6)
    counted = replace(rows["bitplane"], product="popcount")
    shown = dict(zip(columns(g), cells(g, counted), strict=True))
    assert shown["of the register loop"] == f"{100 * rows['bitplane'].gmacs / rows['register loop'].gmacs:.0f} %"
    by_table = replace(rows["bitplane"], product="look-up")
    assert dict(zip(columns(g), cells(g, by_table), strict=True))["of the register loop"] == ""  # that loop counts bits


def test_results_are_read_back_as_they_were(study, tmp_path):
    (tmp_path / "s.json").write_text(to_json(study))
    assert read_study(tmp_path / "s.json") == study
    assert markdown(read_study(tmp_path / "s.json")) == markdown(study)


def test_the_documented_schema_is_that_of_the_code():
    assert json.loads((ROOT / "docs" / "study" / "schema.json").read_text()) == schema()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a study's results"),
        ('{"title": "t"}', "missing required field `about`"),
        ('{"title": "t", "about": "", "groups": [{"name": 3}]}', r"expected `str`, got `int` - at `\$.groups\[0\].name`"),
        ('{"title": "t", "about": "", "groups": [], "version": 9}', "`version` is 9, this bitplane reads 1"),
    ],
)
def test_a_file_that_holds_no_results_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(StudyError, match=message) as caught:
        read_study(tmp_path / "s.json")
    assert str(caught.value).startswith(f"{tmp_path / 's.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('title = "Mini"', ""), "missing required field `title`"),
        (("rounds = 3", 'rounds = "3"'), r"expected `int`, got `str` - at `\$.measure.rounds`"),
        (("[measure]", "[measures]"), "unknown field `measures`"),
        (('layers = ["ternary/1 64x8"]', 'layers = ["binary/3 64x8"]'), "group 'layers': 'binary/3 64x8' is not of the form"),
        (('layers = ["ternary/1 64x8"]', ""), "group 'layers' needs exactly one of"),
        (('"LiteRT float32"', '"TVM"'), "group 'mini': no engine is called 'TVM'; there are bitplane"),
        (('title = "Mini"', "title = "), "not a study description"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "d.toml"
    assert change[0] in MINI
    path.write_text(MINI.replace(*change))
    with pytest.raises(StudyError, match=message) as caught:
        read_description(path)
    assert str(caught.value).startswith(str(path))


def test_a_pattern_that_matches_nothing_is_refused(tmp_path, images):
    path = tmp_path / "d.toml"
    path.write_text('title = "t"\n[[group]]\nname = "g"\npacked = ["*.onnx"]\n')
    with pytest.raises(StudyError, match=r"group 'g': no file matches '\*.onnx'"):
        run_study(read_description(path), Sources(tmp_path, tmp_path / "files", lambda _: images), lambda _: None)


def test_a_worker_that_cannot_open_its_file_says_so(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    spec = {
        "module": "bitplane.benchmarks.peers.bitplane",
        "variant": "",
        "file": str(tmp_path / "bad.onnx"),
        "threads": 1,
        "purpose": "stream",
        "batch_size": 1,
        "images": "",
    }
    with pytest.raises(PeerError, match=r"ModelError: .*bad.onnx"):
        Worker(spec)


def test_the_page_needs_no_network_and_escapes_what_it_is_given(study):
    page = html(study)
    assert "A &lt;b&gt;study&lt;/b&gt;" in page
    fetched = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            fetched.extend((tag, value) for name, value in attrs if name in ("src", "href", "srcset", "data"))

    Tags().feed(page)
    assert fetched == []
    for g in study.groups:
        for r in g.rows:
            assert r.engine in page
    assert "not installed: pip install no-such-package" in page


def test_the_markdown_has_a_line_for_every_row(study):
    text = markdown(study, {"mini": "mini.png"})
    assert "![mini](mini.png)" in text
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| network", "| layer"))]
    assert len(lines) == sum(len(g.rows) for g in study.groups)
    assert len({line.replace("\\|", "").count("|") for line in lines[:6]}) == 1


def test_a_noisy_machine_is_called_noisy(study):
    noisy = replace(study.groups[0].conditions, quiet=False)
    text = markdown(replace(study, groups=[replace(study.groups[0], conditions=noisy)]))
    assert "**The machine was NOT quiet**" in text


def test_an_energy_counter_is_read_where_there_is_one(tmp_path):
    assert machine.energy_uj(tmp_path / "none") is None
    (tmp_path / "energy_uj").write_text("123456\n")
    assert machine.energy_uj(tmp_path / "energy_uj") == 123456
