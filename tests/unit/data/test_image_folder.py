"""Image folders: supported formats, errors, and the cache."""

import io
import os
import re

import numpy as np
import pytest
import torch
from helpers.images import augmented
from PIL import Image

from kd_bench.data import cache
from kd_bench.data.dataset import Dataset
from kd_bench.data.files import image_files
from kd_bench.data.image_folder import ImageFolder
from kd_bench.interfaces import UserError

COLOURS = {"cat": (255, 0, 0), "dog": (0, 128, 255)}


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def plain(colour, height=4, width=4):
    return np.full((height, width, 3), colour)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two red cats and one blue dog for training, one of each for testing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = tmp_path / "pets"
    for name in ("train/cat/b.png", "train/cat/a.png", "train/dog/z.png"):
        save(root / name, plain(COLOURS[name.split("/")[1]]))
    for name in COLOURS:
        save(root / "test" / name / "1.png", plain(COLOURS[name]))
    return root


def load(root, size=None):
    return ImageFolder(str(root), size).load()


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


def test_classes_and_files_are_read_in_the_order_of_their_names(root):
    save(root / "train/cat/a.png", plain((255, 0, 7)))
    train, test = load(root)
    assert train.target.tolist() == [0, 0, 1]
    assert test.target.tolist() == [0, 1]
    assert train.image.shape == (3, 4, 4, 3)
    assert train.image.dtype == torch.uint8
    assert train.image[:, 0, 0].tolist() == [[255, 0, 7], [255, 0, 0], [0, 128, 255]]


def test_sizes_are_read_from_the_header_of_one_image(root):
    save(root / "test/dog/2.png", plain(COLOURS["dog"], height=9))  # not read by `describe`
    described = ImageFolder(str(root), None).describe()
    assert (described.height, described.width) == (4, 4)
    assert (described.num_classes, described.train_size, described.test_size) == (2, 3, 3)
    described = ImageFolder(str(root), 16).describe()
    assert (described.height, described.width) == (16, 16)


def test_images_of_a_folder_can_be_augmented(root):
    data = Dataset(ImageFolder(str(root), None), pad=1, padding="reflect", flip=True).load()
    assert augmented(data, torch.arange(3), 1, 0).shape == (3, 3, 4, 4)
    assert data.train.target.tolist() == [0, 0, 1]


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp", "ppm"])
def test_formats_of_pil_are_read(root, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    save(root / f"train/dog/x.{suffix}", plain((0, 128, 255)), **options)
    train, _ = load(root)
    assert train.image[2].unique(dim=0).shape[0] == 1
    assert train.image[2, 0, 0].tolist() == [0, 128, 255]


def test_jpegs_are_read_up_to_compression_errors(root):
    save(root / "train/dog/x.JPEG", plain((0, 128, 255)), quality=95)
    train, _ = load(root)
    assert (train.image[2, 0, 0].int() - torch.tensor([0, 128, 255])).abs().max() <= 3


def test_grey_palette_and_transparent_images_become_rgb(root):
    save(root / "train/dog/1grey.png", np.full((4, 4), 77))
    Image.fromarray(plain((10, 20, 30)).astype(np.uint8)).convert(
        "P", palette=Image.Palette.ADAPTIVE
    ).save(root / "train/dog/2palette.png")
    save(root / "train/dog/3alpha.png", np.full((4, 4, 4), (1, 2, 3, 128)))
    train, _ = load(root)
    assert train.image[2:5, 0, 0].tolist() == [[77, 77, 77], [10, 20, 30], [1, 2, 3]]


def test_hidden_files_are_skipped(root):
    for name in ("train/.DS_Store", "train/cat/.thumbs", "train/.git/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    train, _ = load(root)
    assert len(train.target) == 3


def test_resizing_is_antialiased(root):
    # Every fourth column is white, and the image is made four times smaller. The bilinear filter is
    # a triangle of 4 columns to each side: white columns at distances 1.5 and 2.5 from the center
    # of a new pixel weigh .625 and .375 out of 4: 255 / 4 = 63.75. Without antialiasing, only
    # the two nearest columns would count, which are black.
    stripes = np.zeros((32, 32, 3))
    stripes[:, ::4] = 255
    save(root / "train/cat/a.png", stripes)
    train, _ = load(root, size=8)
    assert train.image.shape == (3, 8, 8, 3)
    assert train.image[0, :, 1:-1].unique().tolist() == [64]
    assert train.image[1].unique(dim=0).shape[0] == 1  # constant color, larger


def test_resizing_crops_the_center_of_an_oblong_image(root):
    wide = plain((9, 9, 9), height=4, width=12)
    wide[:, :4] = wide[:, 8:] = 200
    save(root / "train/cat/a.png", wide)
    train, _ = load(root, size=4)
    assert train.image[0].unique().tolist() == [9]


def test_images_of_two_sizes_are_refused_with_a_file_of_each(root):
    save(root / "test/dog/odd.png", plain((0, 0, 0), height=5, width=6))
    with refused(
        f"{root}/train/cat/a.png has 4x4 pixels, {root}/test/dog/odd.png has 6x5; "
        "set dataset.source.size"
    ):
        load(root)


@pytest.mark.parametrize("size", [None, 8])
def test_a_file_that_is_not_an_image_is_reported(root, size):
    (root / "train/dog/notes.txt").write_text("good dog")
    with refused(f"{root}/train/dog/notes.txt is not an image that PIL can read"):
        load(root, size)


@pytest.mark.parametrize("name", ["train/cat/a.png", "train/dog/z.png"])
def test_a_truncated_image_is_reported(root, name):
    save(root / name, np.random.default_rng(0).integers(256, size=(4, 4, 3)))
    path = root / name
    path.write_bytes(path.read_bytes()[:60])
    with refused(f"{path} is not an image that PIL can read"):
        load(root)


@pytest.mark.parametrize("name", ["train/cat/0.png", "train/dog/z.png", "test/dog/9.png"])
def test_a_link_to_a_missing_image_is_reported(root, name):
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(root / "gone.png")
    with refused(f"{root / name} is a link to a file that does not exist"):
        load(root)


def test_a_link_to_a_missing_class_folder_is_reported(root):
    (root / "train/fox").symlink_to(root / "gone")
    with refused(f"{root}/train/fox is a broken link"):
        load(root)


@pytest.mark.slow
def test_an_image_that_is_too_large_is_reported(root):
    path = root / "train/dog/bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with refused(f"{path} is too large for PIL to decode: Image size (400000000 pixels)"):
        load(root, size=4)


def test_an_image_of_16_bits_is_refused_rather_than_clipped(root):
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    deep.save(root / "train/dog/deep.png")
    with refused(f"{root}/train/dog/deep.png has more than 8 bits per channel"):
        load(root)


def test_differing_classes_are_refused_with_counts_and_names(root):
    for name in ("ant", "bee", "cow", "eel"):
        save(root / "train" / name / "1.png", plain((0, 0, 0)))
    save(root / "test/fly/1.png", plain((0, 0, 0)))
    with refused(
        f"{root} has 6 classes in train and 3 in test; "
        "only in train: ant, bee, cow, ...; only in test: fly"
    ):
        ImageFolder(str(root), None).describe()


def test_a_folder_without_class_folders_is_refused(root):
    (root / "train/labels.csv").write_text("a,b")
    with refused(
        f"{root}/train/labels.csv is a file; {root}/train must contain one folder per class"
    ):
        ImageFolder(str(root), None).describe()
    os.remove(root / "train/labels.csv")
    (root / "train/emu").mkdir()
    with refused(f"class folder {root}/train/emu has no image"):
        ImageFolder(str(root), None).describe()


def test_a_missing_folder_is_reported_with_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(f"no folder {tmp_path}/data/birds/train: "):
        ImageFolder("data/birds", None).describe()
    (tmp_path / "data/birds/train").mkdir(parents=True)
    with refused(f"{tmp_path}/data/birds/train is empty"):
        ImageFolder("data/birds", None).describe()


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_must_be_positive(size):
    with refused(f"dataset.source.size must be above 0, got {size}"):
        ImageFolder("data", size)


# --- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The decoded files, in order."""
    seen = []
    decode = image_files.decode

    def watched(path):
        seen.append(path)
        return decode(path)

    monkeypatch.setattr(image_files, "decode", watched)
    return seen


def cached(root):
    return sorted((root / ".kd_bench_cache").iterdir())


def test_images_are_decoded_once(root, decoded):
    first, first_test = load(root)
    assert len(decoded) == 5
    again, again_test = load(root)
    assert len(decoded) == 5
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert torch.equal(first_test.image, again_test.image)
    assert [path.suffix for path in cached(root)] == [".pt"]


def test_the_cache_key_depends_on_files_and_size(root, decoded):
    load(root)
    load(root, size=2)
    assert len(decoded) == 10  # different size
    save(root / "train/dog/new.bmp", plain((1, 1, 1)))
    assert len(load(root)[0].target) == 4  # one file more
    save(root / "train/dog/new.bmp", plain((2, 2, 2)))  # same number of bytes: uncompressed
    os.utime(root / "train/dog/new.bmp", (1, 1))
    assert load(root)[0].image[2, 0, 0].tolist() == [2, 2, 2]  # different mtime
    before = len(decoded)
    with open(root / "train/dog/new.bmp", "ab") as file:
        file.write(b"tail")
    os.utime(root / "train/dog/new.bmp", (1, 1))
    load(root)
    assert len(decoded) == before + 6  # different file size
    before = len(decoded)
    os.rename(root / "train/dog/new.bmp", root / "train/cat/new.bmp")
    assert load(root)[0].target.tolist() == [0, 0, 0, 1]  # different class
    assert len(decoded) == before + 6


def test_the_cache_of_a_read_only_folder_is_in_the_users_cache(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    load(root)
    assert not (root / ".kd_bench_cache").exists()
    [path] = (tmp_path / "home" / "kd_bench").iterdir()
    assert path.suffix == ".pt"


def test_images_are_loaded_without_a_cache_if_it_cannot_be_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.warns(UserWarning, match="^images are not cached: .*/proc/none") as warned:
        train, _ = load(root)
    assert len(warned) == 1
    assert train.image[:, 0, 0].tolist() == [[255, 0, 0], [255, 0, 0], [0, 128, 255]]


def test_an_existing_cache_is_used_in_a_read_only_folder(root, decoded, monkeypatch):
    load(root)
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    load(root)
    assert len(decoded) == 5


def test_cache_files_are_written_atomically(root, monkeypatch):
    def dies(tensors, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert cached(root) == []


def flipped_pixel(content):
    at = content.index(bytes([9] * 48))  # the darkest image, decoded
    return content[:at] + bytes([1]) + content[at + 1 :]


def of_version_0_1(content):
    file = io.BytesIO()
    torch.save(torch.load(io.BytesIO(content), weights_only=True)["tensors"], file)
    return file.getvalue()


DAMAGES = {
    "one pixel": flipped_pixel,
    "truncated": lambda content: content[:-100],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "4 kB too many": lambda content: content + bytes(4096),
    "text": lambda content: b"no tensors",
    "of version 0.1": of_version_0_1,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_file_is_reported_and_replaced(root, decoded, damage):
    save(root / "train/cat/a.png", plain((9, 9, 9)))
    whole, _ = load(root)
    image = whole.image.clone()
    [path] = cached(root)
    content = path.read_bytes()
    path.unlink()  # not overwritten, as it is memory-mapped
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=f"{path} is damaged and will be rebuilt: "):
        again, _ = load(root)
    assert torch.equal(again.image, image)
    assert len(decoded) == 10
    assert torch.equal(load(root)[0].image, image)
    assert len(decoded) == 10


def test_a_damaged_cache_in_a_read_only_folder_is_replaced_in_the_users_cache(
    root, decoded, monkeypatch
):
    load(root)
    [path] = cached(root)
    path.write_bytes(b"")
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"{path} is damaged"):
            load(root)
    assert len(decoded) == 10


def test_partial_cache_files_of_killed_processes_are_removed(root):
    cache.save(root, "key", {})
    left = root / ".kd_bench_cache" / "key.0123.part"
    left.touch()
    cache.save(root, "key", {})
    assert [path.name for path in cached(root)] == ["key.pt"]
