"""kd-bench prepare: packs a folder of images into a dataset for training."""

import shutil

import pytest
from helpers.image_files import write_folder
from helpers.jobs import NETS


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "pets", train=21)


def choices(root):
    return "dataset=image_folder", "dataset.name=pets", f"dataset.root={root}"


@pytest.mark.slow
def test_packed_images_train(kd_bench, root, tmp_path):
    code, printed = kd_bench("prepare", *choices(root), "--to", "packed")
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].startswith("train: 21 images, ")
    assert lines[1].startswith("test: 6 images, ")
    assert lines[2] == (
        "wrote packed; train on it with dataset=shards dataset.name=NAME dataset.root=packed"
    )
    data = ("dataset=shards", "dataset.name=pets", "dataset.root=packed", "dataset.workers=0")
    code, printed = kd_bench(*data, "dataset.pad=1", *NETS, "method=baseline")
    assert code == 0, printed


@pytest.mark.slow
def test_an_imbalance_is_reported(kd_bench, root):
    for path in sorted((root / "train/bee").iterdir())[1:]:
        path.unlink()
    _, printed = kd_bench("prepare", *choices(root), "--to", "packed")
    assert "class 0 has 11 training images, class 1 has 1, 11.0 times fewer" in printed


@pytest.mark.slow
def test_test_images_that_are_training_images_are_reported_by_both_commands(kd_bench, root):
    shutil.copy(root / "train/ant/002.jpg", root / "test/ant/copy.jpg")
    _, printed = kd_bench("prepare", *choices(root), "--to", "packed")
    line = (
        f"test images that are also training images: 1 of 7, such as {root}/test/ant/copy.jpg (the"
        f" same as {root}/train/ant/002.jpg); test accuracy counts them"
    )
    assert line in printed.splitlines()
    code, printed = kd_bench(*choices(root), "dataset.pad=1", *NETS, "method=baseline")
    assert code == 0, printed
    assert f"dataset 'pets': {line}" in printed.splitlines()


@pytest.mark.slow
def test_all_undecodable_images_are_listed(kd_bench, root):
    for name in ("train/ant/000.jpg", "test/bee/001.jpg"):
        (root / name).write_bytes(b"no image")
    code, printed = kd_bench("prepare", *choices(root), "--to", "packed")
    assert code == 2
    assert printed.splitlines() == [
        f"{root}/train/ant/000.jpg is not an image that PIL can read",
        f"{root}/test/bee/001.jpg is not an image that PIL can read",
        "kd-bench: 2 images cannot be decoded (see above); repair or remove them, and start again",
    ]
    assert not (root.parent / "packed").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset=digits"], "dataset 'digits' has no image files; choose dataset=image_folder"),
        (["dataset=digits", "--short-side", "64"], "--short-side must be 256 to 400, got 64"),
        ([], "the following arguments are required"),
    ],
)
def test_datasets_and_sizes_that_cannot_be_packed_are_refused(kd_bench, words, message):
    code, printed = kd_bench("prepare", *words, "--to", "packed")
    assert code == 2
    assert message in printed


@pytest.mark.slow
def test_resized_images_cannot_be_packed(kd_bench, root):
    _, printed = kd_bench("prepare", *choices(root), "dataset.source.size=4", "--to", "packed")
    assert "packed images keep their shape; leave out dataset.source.size" in printed


@pytest.mark.slow
def test_a_target_that_cannot_be_written_is_reported_in_one_line(kd_bench, root, tmp_path):
    (tmp_path / "file").touch()
    code, printed = kd_bench("prepare", *choices(root), "--to", "file/packed")
    assert (code, printed) == (2, "kd-bench: cannot write to file: Not a directory\n")
