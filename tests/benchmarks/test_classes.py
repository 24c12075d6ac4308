"""Labels of data follow the names of classes, not their numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.benchmarks.candidates import Sources, network_candidates
from bitplane.benchmarks.classes import match_classes
from bitplane.benchmarks.description import GroupPlan
from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.images import Images

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "resnet20-cifar10-binary1.onnx"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=9, unique=True), st.randoms())
def test_some_classes_in_any_order_are_found_by_name(known, random):
    names = random.sample(known, random.randint(1, len(known)))
    found = match_classes(names, known, len(known), "d", "m")
    assert [known[i] for i in found] == names


def test_a_network_without_names_takes_as_many_classes_as_it_has():
    assert match_classes(["cat", "dog"], (), 2, "d", "m").tolist() == [0, 1]
    assert match_classes(["1", "0"], ("0", "1", "2"), 3, "d", "m").tolist() == [1, 0]
    with pytest.raises(StudyError, match="d: class 'cat' is none of the 3 classes of m"):
        match_classes(["cat", "dog"], (), 3, "d", "m")


def test_a_name_that_is_none_or_several_is_refused():
    with pytest.raises(StudyError, match=r"class 'zebra' is none of the 2 classes of m \(cat, dog\)"):
        match_classes(["cat", "zebra"], ("cat", "dog"), 2, "d", "m")
    with pytest.raises(StudyError, match="class 'crane' is several of the 2 classes"):
        match_classes(["crane"], ("crane", "crane"), 2, "d", "m")


def test_a_studys_test_images_have_the_labels_of_its_networks(tmp_path):
    pixels = np.zeros((4, 3, 32, 32), np.uint8)
    images = Images("pets", pixels, (pixels, np.array([0, 1, 1, 0])), ("dog", "cat"))
    g = GroupPlan(name="g", data="pets", packed=[str(MODEL)], engines=["bitplane"])
    network_candidates(g, Sources(tmp_path, tmp_path, lambda _: images), tmp_path)
    assert np.load(tmp_path / "test_labels.npy").tolist() == [5, 3, 3, 5]  # CIFAR-10's
    strange = replace(images, classes=("dog", "zebra"))
    with pytest.raises(StudyError, match="pets: class 'zebra' is none of the 10 classes"):
        network_candidates(g, Sources(tmp_path, tmp_path, lambda _: strange), tmp_path)
