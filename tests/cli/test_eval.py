"""eval and predict see the same pixels, and eval counts by the names of classes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bitplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "resnet20-cifar10-ternary2.onnx"
IMAGES = ROOT / "examples" / "images"


@pytest.fixture
def folder(tmp_path):
    """Two of the ten classes, whose numbers in the folder are not those of the network; one picture is turned by its EXIF."""
    for name in ("truck", "cat"):
        target = tmp_path / "data" / "test" / name
        target.mkdir(parents=True)
        Image.open(IMAGES / f"{name}.png").save(target / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned = Image.open(IMAGES / "cat.png").transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "data" / "test" / "cat" / "turned.png", exif=exif)
    return tmp_path / "data"


def test_eval_matches_classes_by_name_where_predict_is_right(folder, tmp_path, capsys):
    assert main(["eval", str(MODEL), "--data", str(folder), "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text()) == {"top1": 1.0, "images": 3, "engine": "bitplane"}
    capsys.readouterr()
    assert main(["predict", str(MODEL), *map(str, sorted(folder.rglob("*.png")))]) == 0
    assert [line.split(": ")[1].split()[0] for line in capsys.readouterr().out.splitlines()] == ["cat", "cat", "truck"]


def test_the_turned_picture_is_the_same_picture(folder, tmp_path):
    both = [str(folder / "test" / "cat" / name) for name in ("a.png", "turned.png")]
    assert main(["predict", str(MODEL), *both, "--json", str(tmp_path / "p.json")]) == 0
    a, b = json.loads((tmp_path / "p.json").read_text())
    assert a["top"] == b["top"]


def test_a_class_that_the_network_does_not_know_is_refused_by_name(folder, capsys):
    (folder / "test" / "cat").rename(folder / "test" / "zebra")
    assert main(["eval", str(MODEL), "--data", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}: class 'zebra' is none of the 10 classes of {MODEL}" in line


def test_images_of_other_sizes_are_made_into_what_the_network_takes(folder, tmp_path, capsys):
    for path in folder.rglob("a.png"):
        Image.open(path).resize((64, 96), Image.Resampling.NEAREST).save(path)
    for engine in ("bitplane", "onnxruntime"):
        options = ["--engine", engine, "--json", str(tmp_path / "e.json")]
        assert main(["eval", str(MODEL), "--data", str(folder), *options]) == 0
        assert json.loads((tmp_path / "e.json").read_text())["images"] == 3
    assert main(["eval", str(MODEL), "--data", str(folder), "--size", "64"]) == 2
    assert "--size 64: " in capsys.readouterr().err


def test_a_folder_without_a_test_split_is_refused(folder, capsys):
    (folder / "test").rename(folder / "train")
    assert main(["eval", str(MODEL), "--data", str(folder)]) == 2
    assert f"{folder}: expected a folder test/" in capsys.readouterr().err


def test_a_decompression_bomb_is_one_line(tmp_path, capsys):
    side = (60_000).to_bytes(4, "little")
    header = (
        b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little") + side + side + b"\1\0\x18\0" + bytes(24)
    )
    (tmp_path / "bomb.bmp").write_bytes(header)
    assert main(["predict", str(MODEL), str(tmp_path / "bomb.bmp")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bomb.bmp: " in line
