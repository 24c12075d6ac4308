"""A folder of images: order, labels, sizes, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from bitplane.pixels import PixelForm
from bitplane.train.data.folder import SMALL, load_folder, sample_folder
from bitplane.train.errors import DataError


def write(root, side, count=5):
    """Random images of two classes; returns those of each split, in the order of their names."""
    rng = np.random.default_rng(0)
    written = {}
    for split in ("train", "test"):
        written[split] = rng.integers(0, 256, (2 * count, side, side, 3)).astype(np.uint8)
        for i, pixels in enumerate(written[split]):
            path = root / split / f"class{i // count}" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return written


@pytest.mark.parametrize("side", [8, 96])  # read one after the other, and by threads
def test_images_come_in_the_order_of_their_names_with_their_classes(tmp_path, side):
    written = write(tmp_path, side)
    assert ((tmp_path / "train" / "class0" / "000.png").stat().st_size >= SMALL) == (side == 96)
    train, test, classes = load_folder(tmp_path, 0)
    assert classes == ("class0", "class1")
    for split, name in ((train, "train"), (test, "test")):
        np.testing.assert_array_equal(split.images.numpy(), written[name].transpose(0, 3, 1, 2))
        assert split.labels.tolist() == [0] * 5 + [1] * 5


def test_one_size_is_given_to_all_on_request(tmp_path):
    write(tmp_path, 8)
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "class0" / "other.png")
    with pytest.raises(DataError, match=r"other.png: 9x8 pixels, .* has other sides; give --size"):
        load_folder(tmp_path, 0)
    train, _, _ = load_folder(tmp_path, 4)
    assert train.images.shape == (11, 3, 4, 4)


@pytest.mark.parametrize("side", [8, 96])
def test_an_unreadable_image_is_named(tmp_path, side):
    write(tmp_path, side)
    (tmp_path / "test" / "class1" / "zzz.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"zzz.png: not a readable image .*\(1 of 11 images"):
        load_folder(tmp_path, 0)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("train/class0/deeper/a.png", "deeper: a folder inside of a class"),
        ("train/class0/notes.txt", "notes.txt: not an image by its name"),
        ("test/class9/a.png", "class9: there is no class "),
        ("train/class9/a.png", "class9: no images"),  # the test split has none
    ],
)
def test_nothing_is_dropped_without_a_word(tmp_path, extra, words):
    write(tmp_path, 8)
    (tmp_path / extra).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(tmp_path / extra, "PNG")
    with pytest.raises(DataError, match=words):
        load_folder(tmp_path, 0)


def test_what_file_managers_leave_is_not_looked_at(tmp_path):
    write(tmp_path, 8)
    (tmp_path / "train" / ".cache").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train" / "class0" / name).write_bytes(b"x")
    train, _, classes = load_folder(tmp_path, 0)
    assert (len(train.labels), classes) == (10, ("class0", "class1"))


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "gif", "jfif"])
def test_images_of_every_listed_format_are_read(tmp_path, suffix):
    write(tmp_path, 8)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "train" / "class0" / f"zzz.{suffix}")
    train, _, _ = load_folder(tmp_path, 0)
    assert len(train.labels) == 11
    assert train.images[5, 0].float().mean() > 200  # the last of its class


def test_samples_are_spread_over_all_classes_and_may_be_grey_and_oblong(tmp_path):
    write(tmp_path, 8)
    found = sample_folder(tmp_path, 4, PixelForm((6, 10), 1))
    assert found.shape == (4, 1, 6, 10)
    whole = sample_folder(tmp_path, 100, PixelForm())
    assert whole.shape == (10, 3, 8, 8)
    assert (sample_folder(tmp_path / "train", 100, PixelForm()) == whole).all()
    spread = sample_folder(tmp_path, 2, PixelForm())
    assert (spread == whole[[0, 9]]).all()
