"""Files become the same pixels everywhere: each step against arithmetic in NumPy, or torchvision."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from bitplane.pixels import MAX_IMAGE, PixelError, PixelForm, read_pixels

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def saved(path, pixels, **options):
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def test_rgb_is_taken_as_it_is(tmp_path):
    found = read_pixels(saved(tmp_path / "a.png", RGB))
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.uint8, (3, 20, 30), True)
    np.testing.assert_array_equal(found, RGB.transpose(2, 0, 1))


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", RGB, exif=exif)
    np.testing.assert_array_equal(read_pixels(path), TURNED[orientation](RGB).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = read_pixels(saved(tmp_path / f"a.{suffix}", values), PixelForm(channels=1))[0]
    np.testing.assert_array_equal(found, np.rint(values / 257))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(tmp_path, mode):
    channels = len(mode)
    values = RNG.integers(0, 256, (16, 16, channels)).astype(np.uint8)
    found = read_pixels(saved(tmp_path / "a.png", values)).transpose(1, 2, 0)
    alpha = values[..., -1:] / 255
    np.testing.assert_allclose(found, np.broadcast_to(values[..., :-1] * alpha + 255 * (1 - alpha), found.shape), atol=1)


def test_a_transparent_color_lies_over_white(tmp_path):
    grey = np.array([[0, 7], [200, 7]], np.uint8)
    found = read_pixels(saved(tmp_path / "a.png", grey, transparency=7), PixelForm(channels=1))[0]
    np.testing.assert_array_equal(found, [[0, 255], [200, 255]])


def test_a_palette_is_looked_up(tmp_path):
    indexed = Image.fromarray(RNG.integers(0, 4, (8, 8)).astype(np.uint8))
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    picked = colors[np.asarray(indexed)]
    indexed.putpalette(colors.tobytes())
    np.testing.assert_array_equal(read_pixels(saved(tmp_path / "a.png", indexed)), picked.transpose(2, 0, 1))


def test_black_and_white_are_0_and_255(tmp_path):
    bits = np.array([[True, False], [False, True]])
    found = read_pixels(saved(tmp_path / "a.png", bits), PixelForm(channels=1))
    np.testing.assert_array_equal(found, [255 * bits])


def test_cmyk_is_converted(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[:, 4:, 0] = 255  # cyan takes away the red
    found = read_pixels(saved(tmp_path / "a.tif", Image.fromarray(ink, "CMYK")))
    np.testing.assert_array_equal(found[:, 0, 0], [255, 255, 255])
    np.testing.assert_array_equal(found[:, 0, 7], [0, 255, 255])


def test_grey_of_rgb_has_the_weights_of_bt601(tmp_path):
    found = read_pixels(saved(tmp_path / "a.png", RGB), PixelForm(channels=1))
    np.testing.assert_allclose(found[0], RGB @ np.array([0.299, 0.587, 0.114]), atol=1)


@pytest.mark.parametrize("size", [(10, 15), (7, 50), (64, 64)])
def test_resizing_is_torchvisions_with_antialias(tmp_path, size):
    ramps = np.stack([np.add.outer(np.arange(20) * a, np.arange(30) * b) for a, b in ((5, 4), (3, 6), (8, 1))], -1)
    path = saved(tmp_path / "a.png", ramps.astype(np.uint8))
    source = torch.from_numpy(ramps.astype(np.uint8)).permute(2, 0, 1)
    for name in ("bilinear", "bicubic"):
        mode = functional.InterpolationMode(name)
        expected = functional.resize(source, list(size), mode, antialias=True).numpy()
        found = read_pixels(path, PixelForm(size, resize=name))
        assert found.shape == (3, *size)
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1  # rounding of the two implementations


def test_crop_takes_the_middle_in_the_right_proportion(tmp_path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    found = read_pixels(saved(tmp_path / "a.png", wide), PixelForm((8, 8), fit="crop"))
    assert (found[:, :, 1:-1] == 255).all()
    stretched = read_pixels(tmp_path / "a.png", PixelForm((8, 8)))
    assert stretched[0, 0, 0] == 0


def bmp(width, height):
    header = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("bomb.bmp", bmp(60_000, 60_000), "bomb"),
        ("cut.bmp", bmp(10, 10), "not a readable image"),
        ("text.png", b"no image", "not a readable image"),
        ("empty.png", b"", "not a readable image"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1", "not a readable image"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PixelError) as caught:
        read_pixels(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(PixelError, match="not a regular file"):
        read_pixels(tmp_path)
    with pytest.raises(PixelError, match="not a readable image"):
        read_pixels(tmp_path / "absent.png")
    with pytest.raises(PixelError, match="images have 1 or 3 channels, not 4"):
        read_pixels(saved(tmp_path / "a.png", RGB), PixelForm(channels=4))


def test_pixels_without_a_known_range_are_refused(tmp_path):
    path = saved(tmp_path / "f.tif", np.ones((4, 4), np.float32))
    with pytest.raises(PixelError, match="floats of no known range"):
        read_pixels(path)
    path = saved(tmp_path / "i.tif", np.full((4, 4), 70_000, np.int32))
    with pytest.raises(PixelError, match="more than 16 bits"):
        read_pixels(path)
    assert MAX_IMAGE < 60_000**2


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    suffix = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    Image.fromarray(RGB).save(path, suffix)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = read_pixels(path, PixelForm((8, 8)))
    except PixelError:
        return
    assert (found.shape, found.dtype) == ((3, 8, 8), np.uint8)
