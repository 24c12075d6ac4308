"""study, report and recommend, from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bitplane.benchmarks.results import Conditions, Estimate, Group, Machine, Row, Stream, Study, read_study, to_json
from bitplane.cli import main
from bitplane.cli.output import UsageError
from bitplane.cli.recommend import milliseconds

ROOT = Path(__file__).resolve().parents[2]
PACKED = ROOT / "tests" / "fixtures" / "format-1" / "binary1.onnx"


def row(name, ms, top1, engine="bitplane"):
    stream = Stream(Estimate(ms, ms * 0.99, ms * 1.01), ms * 1.1, ms * 1.2, 100, 10)
    return Row(f"resnet20 {name}", engine, 1, name, 2, f"{name}.onnx", 1000, stream=stream, top1=top1, images=100)


@pytest.fixture
def results(tmp_path):
    machine = Machine("a cpu", ["avx2"], 2, 8.0, "Linux", "3.11", "performance")
    rows = [row("binary", 0.1, 0.7), row("ternary", 0.3, 0.9), row("float", 1.0, 0.92, "onnxruntime float32")]
    conditions = Conditions(True, 0.01, 0.0, 0.1, [3000.0])
    method = {"rounds": 10.0, "seconds": 0.05, "starts": 3.0, "batch": 32.0}
    g = Group("A group", "2026-01-01", "cifar10", "onnxruntime float32", machine, conditions, method, rows)
    path = tmp_path / "study.json"
    path.write_text(to_json(Study("A study", "About.", [g])))
    return path


def test_recommend_names_a_network_within_the_limits(results, tmp_path, capsys):
    assert main(["recommend", "--study", str(results), "--latency", "200us", "--json", str(tmp_path / "r.json")]) == 0
    assert "resnet20 binary (binary.onnx), 0.100 ms, 70.00 %, 1,000 bytes, on a cpu" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())[0]["top1"] == 0.7
    assert main(["recommend", "--study", str(results), "--accuracy", "80"]) == 0
    assert "resnet20 ternary" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--latency", "0.2"], "--latency 0.2: must be a duration such as 0.2ms, 300us or 1s"),
        (["--latency", "0ms"], "must be a duration"),
        (["--accuracy", "101"], "--accuracy 101.0: must be at most 100"),
        (["--accuracy", "91"], "no network is within these limits; the fastest and the most accurate are"),
        (["--threads", "4"], "no network of known latency and accuracy at 4 threads"),
    ],
)
def test_recommend_refuses_in_one_line(results, capsys, options, words):
    assert main(["recommend", "--study", str(results), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_study_is_refused(tmp_path, capsys):
    assert main(["recommend", "--study", str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read (No such file or directory); `bitplane study` writes one" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "ms"), [("0.2ms", 0.2), ("300us", 0.3), ("1s", 1000.0), (" 2 ms ", 2.0)])
def test_durations_are_read(text, ms):
    assert milliseconds(text) == pytest.approx(ms)
    with pytest.raises(UsageError):
        milliseconds(text + "x")


def test_report_writes_the_pages_again_and_refreshes_tables(results, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- study: A group -->\nSTALE\n<!-- end -->\nAfter.\n")
    out = tmp_path / "out"
    json_file = tmp_path / "w.json"
    assert main(["report", str(results), "-o", str(out), "--refresh", str(page), "--json", str(json_file)]) == 0
    assert {p.name for p in out.iterdir()} == {"study.json", "study.md", "study.html", "a-group.png"}
    assert set(json.loads(json_file.read_text())["written"]) == {*map(str, out.iterdir()), str(page)}
    assert (out / "study.json").read_text() == results.read_text()
    assert (out / "a-group.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "STALE" not in text
    assert "| **resnet20 binary** | bitplane | 0.100 |" in text
    assert text.startswith("Before.\n<!-- study: A group -->\n")
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert main(["report", str(results), "-o", str(results)]) == 2
    assert "exists and is not a folder" in capsys.readouterr().err


def test_groups_on_the_same_images_are_also_shown_together(results, tmp_path):
    found = read_study(results)
    better = replace(found.groups[0], name="Deeper", rows=[row("deep", 0.5, 0.95), row("deep", 0.2, 0.6)])
    results.write_text(to_json(replace(found, groups=[*found.groups, better])))
    out = tmp_path / "out"
    assert main(["report", str(results), "-o", str(out)]) == 0
    assert {p.name for p in out.glob("*.png")} == {"a-group.png", "deeper.png", "all-networks-on-cifar10.png"}
    together = (out / "study.md").read_text().partition("## All networks on cifar10\n")[2].partition("\n## ")[0]
    assert "![All networks on cifar10](all-networks-on-cifar10.png)" in together
    front = ["binary** | bitplane | 0.100 |", "ternary** | bitplane | 0.300 |", "deep** | bitplane | 0.500 |"]
    shown = [line for line in together.splitlines() if line.startswith("| **")]
    assert len(shown) == 3
    assert all(words in line for words, line in zip(front, shown, strict=True))
    assert "All networks on cifar10" in (out / "study.html").read_text()


def test_study_measures_groups_and_keeps_those_it_does_not_measure(tmp_path, capsys):
    description = tmp_path / "d.toml"
    group = '[[group]]\nname = "{}"\npacked = ["{}"]\nengines = ["bitplane"]\n'
    head = 'title = "t"\n[measure]\nthreads = [1]\nrounds = 3\nseconds = 0.002\nstarts = 0\n'
    description.write_text(head + group.format("one", PACKED) + group.format("two", PACKED))
    out = tmp_path / "out"
    assert main(["study", str(description), "-o", str(out)]) == 0
    first = read_study(out / "study.json")
    assert [g.name for g in first.groups] == ["one", "two"]
    assert main(["study", str(description), "-o", str(out), "--only", "two", "--rounds", "4"]) == 0
    second = read_study(out / "study.json")
    assert second.groups[0] == first.groups[0]
    assert second.groups[1].rows[0].stream.rounds == 4
    assert second.groups[1].rows[0].top1 is None  # no images with labels: left blank, not guessed
    capsys.readouterr()
    assert main(["study", str(description), "-o", str(out), "--only", "three"]) == 2
    assert "--only three: no group of" in capsys.readouterr().err
