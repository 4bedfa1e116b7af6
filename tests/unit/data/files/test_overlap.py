"""Test images that are also training images are found in each kind of source."""

import shutil

import pytest
from helpers.image_files import write_folder, write_tables

from kd_bench.data.dataset import Dataset
from kd_bench.data.files.csv_files import CsvFiles
from kd_bench.data.files.packing import pack
from kd_bench.data.files.shards import Shards
from kd_bench.data.image_folder import ImageFolder

SETTINGS = {"pad": 0, "padding": "zero", "flip": False, "workers": 0}
NORMALISED = {"mean": [0.5] * 3, "std": [0.5] * 3}  # so that streamed images are not decoded


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path)
    write_tables(tmp_path)
    return tmp_path


def overlap(source, **settings):
    return Dataset(source, **SETTINGS, **NORMALISED, **settings).load().overlap


def tables(root):
    return CsvFiles(str(root), None, "train.csv", "test.csv")


def packed(root):
    silent = {"bad": lambda line: None, "progress": lambda *about: None}
    pack(ImageFolder(str(root), None), root / "packed", short_side=256, upright=False, **silent)
    return Shards(str(root / "packed"))


@pytest.mark.parametrize("streamed", [False, True])
def test_different_images_are_not_reported(root, streamed):
    for source in (ImageFolder(str(root), None), tables(root), packed(root)):
        assert overlap(source, streamed=streamed) == ""


@pytest.mark.parametrize("streamed", [False, True])
def test_files_in_both_tables_are_counted_with_an_example(root, streamed):
    with open(root / "test.csv", "a") as table:
        table.write("ant,train/ant/004.jpg\nbee,train/bee/001.jpg\n")
    assert overlap(tables(root), streamed=streamed) == (
        f"test images that are also training images: 2 of 8, such as {root}/train/ant/004.jpg;"
        " test accuracy counts them"
    )


def test_copies_of_a_file_are_found_in_memory_and_in_packed_images(root):
    shutil.copy(root / "train/bee/003.jpg", root / "test/bee/zebra.jpg")
    counted = "test images that are also training images: 1 of 7, such as"
    copy, original = "test/bee/zebra.jpg", "train/bee/003.jpg"
    assert overlap(ImageFolder(str(root), None)) == (
        f"{counted} {root}/{copy} (the same as {root}/{original}); test accuracy counts them"
    )
    shards = packed(root)
    for streamed in (False, True):
        assert overlap(shards, streamed=streamed) == (
            f"{counted} {root}/packed/test-00000.shard: {copy} (the same as"
            f" {root}/packed/train-00000.shard: {original}); test accuracy counts them"
        )


def test_streamed_folders_are_compared_only_by_path(root):
    shutil.copy(root / "train/bee/003.jpg", root / "test/bee/zebra.jpg")
    assert overlap(ImageFolder(str(root), None), streamed=True) == ""
