"""The files under examples/ do what their model card says."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from bitplane.cli import main
from bitplane.runtime import InferenceSession

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PACKED = sorted(p for p in EXAMPLES.glob("*.onnx") if "float" not in p.name)
KINDS = ("binary1", "binary4", "binary8", "quaternary4", "quaternary8", "ternary2", "ternary4", "ternary8")
IMAGES = sorted((EXAMPLES / "images").glob("*.png"))


def pixels() -> np.ndarray:
    return np.stack([np.asarray(Image.open(p).convert("RGB")).transpose(2, 0, 1) for p in IMAGES])


def test_there_are_the_networks_of_the_cards_and_an_image_of_each_class() -> None:
    assert {p.stem for p in PACKED} == {f"resnet20-cifar10-{kind}" for kind in KINDS}
    assert len(IMAGES) == 10


@pytest.mark.parametrize("path", PACKED, ids=lambda p: p.stem)
def test_logits_on_the_images_equal_onnxruntimes(path: Path) -> None:
    x = pixels()
    ours = InferenceSession(path).run(None, {"input": x})[0]
    theirs = onnxruntime.InferenceSession(path).run(None, {"input": x})[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_ternary_network_names_the_ten_images_as_its_card_says(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "resnet20-cifar10-ternary2.onnx"
    right = 0
    for image in IMAGES:
        assert main(["predict", str(path), str(image)]) == 0
        right += capsys.readouterr().out.split(": ")[1].startswith(image.stem)
    assert right == 10


def test_the_ternary_file_is_at_most_a_twelfth_of_its_float_twin() -> None:
    packed, twin = ((EXAMPLES / f"resnet20-cifar10-{kind}.onnx").stat().st_size for kind in ("ternary2", "float"))
    assert 12 * packed <= twin
