"""Decoding: simplejpeg and Pillow agree bit for bit; conversions to RGB, and errors."""

import io
import re
import warnings

import numpy as np
import PIL
import pytest
from PIL import Image

from kd_bench.data.files import decode as decoding
from kd_bench.data.files.decode import (
    ORIENTATION,
    decode,
    decode_with_pillow,
    orientation,
    versions,
)
from kd_bench.interfaces import UserError

CHANNELS = {"RGB": 3, "L": 1, "CMYK": 4}


def picture(mode="RGB", height=37, width=51):
    """Smooth random colours, like a photo: noise would hide errors in chroma upsampling."""
    random = np.random.default_rng(height * width)
    coarse = random.integers(256, size=(height // 8 + 2, width // 8 + 2, CHANNELS[mode]))
    coarse = coarse.astype(np.uint8)
    image = Image.fromarray(coarse[..., 0] if mode == "L" else coarse, mode)
    return image.resize((width, height))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


@pytest.fixture
def without_simplejpeg(monkeypatch):
    monkeypatch.setattr(decoding, "simplejpeg", None)


KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"subsampling": 2, "progressive": True},
    "low quality": {"quality": 20},
}


@pytest.mark.parametrize("size", [(37, 51), (16, 16), (1, 1), (120, 17)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_simplejpeg_has_the_same_bits_as_pillow(options, mode, size):
    pytest.importorskip("simplejpeg")
    content = encoded(picture(mode, *size), **options)
    fast = decoding._decode_jpeg(content)
    assert fast is not None  # otherwise Pillow would be compared with itself
    reference = decode_with_pillow(content, "")
    assert fast.dtype == reference.dtype == np.uint8
    assert fast.shape == (*size, 3)
    assert np.array_equal(fast, reference)


def test_without_simplejpeg_pillow_decodes(without_simplejpeg):
    content = encoded(picture())
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), expected)
    assert versions() == {"pillow": PIL.__version__}


def test_versions_has_both_libraries():
    simplejpeg = pytest.importorskip("simplejpeg")
    assert versions() == {"simplejpeg": simplejpeg.__version__, "pillow": PIL.__version__}


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture("CMYK")),
        encoded(picture(), keep_rgb=True),  # not YCbCr
        encoded(picture()) + b"more",
    ],
    ids=["CMYK", "RGB without conversion", "trailing bytes"],
)
def test_unusual_jpegs_are_decoded_as_by_pillow(content):
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), expected)


def test_a_file_and_its_content_give_the_same_pixels(tmp_path):
    picture().save(tmp_path / "a.png")
    expected = np.asarray(picture())
    assert np.array_equal(decode(tmp_path / "a.png"), expected)
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes()), expected)


def test_a_rotation_in_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(encoded(picture(), exif=exif)).shape == (37, 51, 3)


def test_a_palette_with_transparent_colors_is_decoded_without_a_warning():
    image = picture().quantize(8)
    content = encoded(image, "PNG", transparency=bytes(range(0, 256, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(content), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_rotation_is_found_in_each_format(kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert orientation(encoded(picture(), kind, exif=exif), "") == 6
    assert orientation(encoded(picture(), kind), "") == 1


def test_a_tiff_that_pillow_rotates_itself_counts_as_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(picture(), "TIFF", exif=exif, description="Exif")
    assert decode(content).shape == (51, 37, 3)
    assert orientation(content, "") == 1


@pytest.mark.parametrize("turn", [0, 9])
def test_an_invalid_orientation_counts_as_upright(turn):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    assert orientation(encoded(picture(), exif=exif), "") == 1


def test_palette_and_transparent_images_become_rgb():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(encoded(red.quantize(2), "PNG"))[0, 0].tolist() == [255, 0, 0]
    clear = Image.new("RGBA", (2, 2), (9, 8, 7, 0))
    assert decode(encoded(clear, "PNG"))[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("library", ["both", "pillow"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(picture())[:-60], "that PIL can read: image file is truncated"),
        (encoded(picture())[:20], "cat.jpg is not an image that PIL can read"),
        (b"", "cat.jpg is not an image that PIL can read"),
        (b"good dog", "cat.jpg is not an image that PIL can read"),
        (
            encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG"),
            "cat.jpg has more than 8 bits per channel (PIL mode I;16)",
        ),
    ],
    ids=["truncated", "only a header", "empty", "text", "16 bits"],
)
def test_a_file_that_is_not_an_image_is_reported(content, message, library, monkeypatch):
    if library == "pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    with refused(message):
        decode(content, "cat.jpg")


def test_a_jpeg_that_is_too_large_is_reported(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses more than twice that
    with refused("cat.jpg is too large for PIL to decode"):
        decode(encoded(picture()), "cat.jpg")


def test_a_folder_in_place_of_an_image_is_reported(tmp_path):
    with refused(f"cannot read {tmp_path}: Is a directory"):
        decode(tmp_path)


def test_a_missing_file_is_reported(tmp_path):
    with refused(f"{tmp_path}/none.jpg does not exist"):
        decode(tmp_path / "none.jpg")
