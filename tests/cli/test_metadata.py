"""Altered metadata of a packed file: commands show printable text or refuse in one line; before 1.4 no checksum covers them."""

import json
import unicodedata
from pathlib import Path

import onnx
import pytest

from bitplane.benchmarks.report import report_files
from bitplane.benchmarks.results import read_study
from bitplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "format-1.2" / "reactnet.onnx"
EXAMPLE = ROOT / "examples" / "resnet20-cifar10-binary1.onnx"
IMAGE = ROOT / "examples" / "images" / "ship.png"
NASTY = "\x1b]0;PWNED\x07\x1b[2J\nFAKE LINE\u202egnirts\u2066<script>|"


def altered(path: Path, **values: str | None) -> Path:
    """A copy of an example with other metadata."""
    model = onnx.load(EXAMPLE)
    properties = {p.key: p.value for p in model.metadata_props}
    for key, value in values.items():
        properties.pop(f"bitplane.{key}", None)
        if value is not None:
            properties[f"bitplane.{key}"] = value
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def only_printable(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn") for c in text.replace("\n", ""))


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("predict", "input", '{"size": [100000, 100000], "channels": 3}'),
        ("predict", "input", '{"size": [33, 32], "channels": 3}'),
        ("predict", "input", '{"size": [32, 32], "channels": 1}'),
        ("predict", "input", '{"size": 7}'),
        ("predict", "classes", "[" * 100_000),
        ("predict", "classes", '["a", "b"]'),
        ("predict", "classes", "7"),
        ("inspect", "accuracy", '{"test_top1": null}'),
        ("inspect", "accuracy", '{"test_top1": "0.9"}'),
        ("inspect", "accuracy", "[]"),
        ("inspect", "activation_bits", "9" * 400),
    ],
)
def test_metadata_that_cannot_be_used_are_one_line_with_the_file_and_the_key(command, key, value, tmp_path, capsys):
    model = altered(tmp_path / "m.onnx", **{key: value})
    assert main([command, str(model), *[str(IMAGE)] * (command == "predict")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{model}: metadata bitplane.{key} " in line
    assert len(line) < 1000


def test_predict_without_class_names_gives_numbers_and_without_an_input_says_so(tmp_path, capsys):
    assert main(["predict", str(altered(tmp_path / "m.onnx", classes=None)), str(IMAGE)]) == 0
    assert capsys.readouterr().out.startswith(f"{IMAGE}: 8 ")  # CIFAR-10's ship
    assert main(["predict", str(altered(tmp_path / "n.onnx", input=None)), str(IMAGE)]) == 2
    assert "n.onnx: takes no images" in capsys.readouterr().err


def test_names_from_a_file_are_shown_as_printable_text_only(tmp_path, capsys):
    classes = json.dumps([NASTY + str(i) for i in range(10)])
    model = altered(tmp_path / "m.onnx", model=NASTY, dataset=NASTY, classes=classes, accuracy='{"test_top1": 0.5}')
    proto = onnx.load(model)
    for node in proto.graph.node:
        node.name = NASTY + node.name
    proto.metadata_props.add(key=NASTY, value=NASTY)
    onnx.save(proto, model)
    image = tmp_path / "a\x1b[2J\n.png"
    image.write_bytes(IMAGE.read_bytes())
    for argv in (["inspect", model], ["predict", model, image], ["bench", model, "--profile", tmp_path / "t.json"]):
        assert main([str(a) for a in argv]) == 0
        out = capsys.readouterr().out
        assert only_printable(out)
        assert not any(line.startswith("FAKE LINE") for line in out.splitlines())
    assert main(["predict", str(model), str(tmp_path / "no\x1b[2J\nFAKE LINE.png")]) == 2
    err = capsys.readouterr().err
    assert only_printable(err)
    assert err.count("\n") == 1


def test_a_study_with_names_of_strangers_gives_pages_without_their_tags(tmp_path):
    found = json.loads((ROOT / "docs" / "study" / "study.json").read_text())
    group = found["groups"][0]
    found |= {"groups": [group], "title": NASTY, "about": f"{NASTY}\n# heading\n<img src=x onerror=alert(1)>"}
    group["rows"] = group["rows"][:4]
    nasty = "</script><script>alert(1)</script>\x1b[2J|**b**\u202e\n| forged | row |"
    group |= {"name": nasty, "date": nasty, "data": nasty, "baseline": nasty}
    group["machine"] |= {"cpu": nasty, "features": [nasty], "system": nasty, "python": nasty, "governor": nasty}
    for row in group["rows"]:
        row |= {"network": nasty, "engine": nasty, "version": nasty, "settings": {nasty: nasty}, "note": nasty, "file": nasty}
    (tmp_path / "s.json").write_text(json.dumps(found))
    clean = read_study(ROOT / "docs" / "study" / "study.json")
    files = report_files(read_study(tmp_path / "s.json"))
    markdown, page = files["study.md"].decode(), files["study.html"].decode()
    assert only_printable(markdown)
    assert "<" not in markdown.replace("\\<", "")
    assert not any(line.startswith("| forged") for line in markdown.splitlines())
    assert "<script>alert" not in page
    assert "<img" not in page
    own = report_files(clean)["study.html"].decode()
    assert page.count("<script") == own.count("<script")  # of Bokeh and of the table, whatever the names
    assert "\u202e" not in page
    assert "\x1b" not in page
