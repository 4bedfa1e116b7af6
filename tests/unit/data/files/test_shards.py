"""Packed images: small ones are copied, large ones resized, and damage is reported."""

import io
import json
import os
import re
import shutil
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from helpers.image_files import write_folder
from PIL import Image

from kd_bench.data.dataset import Dataset
from kd_bench.data.files import packing
from kd_bench.data.files.decode import decode
from kd_bench.data.files.packing import make_copy, pack
from kd_bench.data.files.shards import Shards
from kd_bench.data.image_folder import ImageFolder
from kd_bench.interfaces import UserError
from kd_bench.utils.errors import DamagedError
from kd_bench.utils.lock import Lock


def packed(root, to, bad=lambda line: None, progress=lambda *about: None, **changed):
    settings = {"short_side": 256, "upright": False, **changed}
    source = ImageFolder(str(root), None)
    return pack(source, to, bad=bad, progress=progress, **settings)


def same_files(one, other):
    names, others = ({path.name for path in folder.iterdir()} for folder in (one, other))
    return names == others and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("pets"))
    packed(root, root / "packed")
    return root


@pytest.fixture
def root(_made, tmp_path):
    """A test's copy of a folder of images, with packed copies in `packed`."""
    return shutil.copytree(_made, tmp_path / "pets")


def refused(message, kind=UserError):
    return pytest.raises(kind, match=re.escape(message))


def test_packed_images_are_those_of_the_folder(root):
    shards, folder = Shards(str(root / "packed")), ImageFolder(str(root), None)
    assert shards.describe() == folder.describe()
    for mine, theirs in zip(shards.load(), folder.load(), strict=True):
        assert torch.equal(mine.image, theirs.image)
        assert torch.equal(mine.target, theirs.target)


def test_packed_images_are_streamed_with_the_same_views_as_in_memory(root):
    settings = {"pad": 1, "padding": "zero", "flip": True, "workers": 0}
    held = Dataset(ImageFolder(str(root), None), **settings).load()
    streamed = Dataset(Shards(str(root / "packed")), streamed=True, **settings).load()
    order = torch.arange(12)
    feeds = [data.feed(3, [12]) for data in (held, streamed)]
    for feed in feeds:
        feed.start(order, 1)
        feed.advance()
    view = held.sample_views(order, 1, 3)
    assert torch.equal(*[feed.images(order, view) for feed in feeds])


def test_small_images_are_copied_byte_by_byte(root):
    train, _ = Shards(str(root / "packed")).open()
    assert train.content(0) == (root / "train/ant/000.jpg").read_bytes()
    assert train.name(0) == f"{root}/packed/train-00000.shard: train/ant/000.jpg"


def test_a_new_shard_starts_when_one_is_full(root, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 1)
    packed(root, root / "many")
    assert len(list((root / "many").glob("train-*.shard"))) == 12
    many, one = (Shards(str(root / name)) for name in ("many", "packed"))
    assert torch.equal(many.load()[0].image, one.load()[0].image)


def test_packing_again_gives_the_same_fingerprint(root):
    packed(root, root / "again")
    of_both = [Shards(str(root / name)).open()[0].fingerprint for name in ("packed", "again")]
    assert of_both[0] == of_both[1]


def photo(path, width, height, **options):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * y // height, 255 * x // width, 0 * x], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)


def test_a_large_image_becomes_a_jpeg_with_the_given_shorter_side(tmp_path):
    path = tmp_path / "wide.png"
    photo(path, 900, 512)
    made = make_copy(str(path), 256, upright=False)
    assert made.is_new
    assert Image.open(io.BytesIO(made.content)).format == "JPEG"
    pixels = decode(made.content)
    assert pixels.shape == (256, 450, 3)
    assert pixels[:8].mean((0, 1)) == pytest.approx([255 * 4 / 256, 127, 0], abs=3)


@pytest.mark.parametrize("upright", [False, True])
def test_a_rotation_in_exif_is_reported_and_applied_if_requested(tmp_path, upright):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise
    path = tmp_path / "turned.jpg"
    photo(path, 40, 20, exif=exif, quality=95)
    made = make_copy(str(path), 256, upright=upright)
    assert made.is_rotated
    assert made.is_new == upright
    red = decode(made.content)[..., 0].astype(int)  # increases from the top of the stored pixels
    if upright:  # their top is now on the right
        assert red.shape == (40, 20)
        assert (red[:, :5].mean(), red[:, -5:].mean()) == pytest.approx((222, 25), abs=8)
    else:
        assert red.shape == (20, 40)


def test_all_images_that_cannot_be_decoded_are_listed_and_nothing_is_written(root):
    (root / "train/bee/001.jpg").write_bytes(b"no image")
    whole = (root / "test/ant/000.jpg").read_bytes()
    (root / "test/ant/000.jpg").write_bytes(whole[:-30])
    lines = []
    with refused("2 images cannot be decoded (see above); repair or remove them"):
        packed(root, root / "new", bad=lines.append)
    unreadable = "is not an image that PIL can read"
    assert lines[0] == f"{root}/train/bee/001.jpg {unreadable}"
    assert lines[1].startswith(f"{root}/test/ant/000.jpg {unreadable}: image file is truncated")
    assert len(lines) == 2
    assert not list(root.glob("new*"))


def test_the_partial_output_of_a_killed_process_is_replaced(root):
    (root / "new.part").mkdir()
    (root / "new.part/train-00000.shard").write_bytes(b"half")
    packed(root, root / "new")
    assert torch.equal(
        Shards(str(root / "new")).load()[0].image, Shards(str(root / "packed")).load()[0].image
    )
    assert not (root / "new.part").exists()


def test_an_existing_folder_is_not_written_to(root):
    with refused(f"{root}/packed already exists"):
        packed(root, root / "packed")


def test_a_process_that_is_killed_leaves_nothing_that_the_next_one_keeps(root):
    def pack_until_killed():
        packed(root, root / "new", progress=lambda *about: os.kill(os.getpid(), signal.SIGKILL))

    process = get_context("fork").Process(target=pack_until_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (root / "new").exists()
    assert (root / "new.part").exists()
    packed(root, root / "new")
    assert same_files(root / "new", root / "packed")
    assert not (root / "new.part").exists()


def test_of_two_processes_that_pack_into_one_folder_the_second_is_refused(root):
    refusals = []

    def pack_too(split, done, images):
        with refused("new is being written by process") as error:
            packed(root, root / "new")
        refusals.append(error)

    packed(root, root / "new", progress=pack_too)
    assert len(refusals) == 18  # one for each image
    assert same_files(root / "new", root / "packed")
    assert not (root / "new.part").exists()


def test_a_process_that_waited_for_the_lock_does_not_replace_what_another_one_finished(
    root, monkeypatch
):
    class SlowLock(Lock):
        def __enter__(self):
            monkeypatch.setattr(packing, "Lock", Lock)
            packed(root, root / "new")
            (root / "new.part").mkdir()
            return super().__enter__()

    monkeypatch.setattr(packing, "Lock", SlowLock)
    with refused(f"{root}/new already exists"):
        packed(root, root / "new")
    assert same_files(root / "new", root / "packed")
    assert not (root / "new.part").exists()


# Damage


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_image_is_reported(root):
    shard = root / "packed/train-00000.shard"
    first = len((root / "train/ant/000.jpg").read_bytes())
    change_byte(shard, first + 5)  # in the second image
    train, _ = Shards(str(root / "packed")).open()
    train.read(0)
    with refused(f"{shard}: train/ant/002.jpg is damaged; pack the images", DamagedError):
        train.read(1)


def test_a_truncated_shard_is_reported_before_anything_is_read(root):
    shard = root / "packed/test-00000.shard"
    length = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-7])
    with refused(
        f"{shard} is damaged: it has {length - 7:,} bytes instead of {length:,}", DamagedError
    ):
        Shards(str(root / "packed")).describe()


def test_a_missing_shard_is_reported(root):
    (root / "packed/test-00000.shard").unlink()
    with refused(f"cannot read {root}/packed/test-00000.shard: No such file", DamagedError):
        Shards(str(root / "packed")).describe()


def test_a_damaged_table_is_reported(root):
    change_byte(root / "packed/train.npz", 300)
    with refused(f"{root}/packed/train.npz is damaged: its content does not match", DamagedError):
        Shards(str(root / "packed")).describe()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1'])
def test_a_damaged_index_is_reported(root, text):
    (root / "packed/index.json").write_text(text)
    with refused(f"{root}/packed/index.json is damaged", DamagedError):
        Shards(str(root / "packed")).describe()


@pytest.mark.parametrize(
    "splits",
    [{}, None, {"train": {"table": "", "shards": []}}, {"train": {"table": ""}, "test": None}],
)
def test_an_index_without_the_table_or_the_shards_of_a_split_is_reported(root, splits):
    path = root / "packed/index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "splits": splits}))
    message = f"{path} is damaged: the table or the shards of a split are missing"
    with refused(message, DamagedError):
        Shards(str(root / "packed")).describe()


def test_an_index_of_another_version_is_refused(root):
    path = root / "packed/index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with refused(f"{path} was written by an incompatible version of kd-bench"):
        Shards(str(root / "packed")).describe()


def test_a_folder_that_was_not_prepared_is_reported(tmp_path):
    with refused(f"no file {tmp_path}/index.json: pack images with kd-bench prepare"):
        Shards(str(tmp_path)).describe()


def test_images_of_two_sizes_are_refused_if_held_in_memory(tmp_path):
    root = write_folder(tmp_path, sizes=((8, 8), (9, 8)))
    packed(root, root / "packed")
    with refused("images differ in size"):
        Shards(str(root / "packed")).load()
