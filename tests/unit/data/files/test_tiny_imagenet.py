"""Tiny ImageNet, with the folders of its archive."""

import re

import numpy as np
import pytest
from PIL import Image

from kd_bench.data.files.tiny_imagenet import TinyImageNet
from kd_bench.interfaces import UserError


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)  # some images are grey


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(("n01", "n02")):
        for image in range(2):
            save(tmp_path / f"train/{name}/images/{name}_{image}.png", 10 * number + image)
        (tmp_path / f"train/{name}/{name}_boxes.txt").write_text("")
    for number, name in enumerate(("n02", "n01", "n02")):
        save(tmp_path / f"val/images/val_{number}.png", 50 + number)
        with open(tmp_path / "val/val_annotations.txt", "a") as file:
            file.write(f"val_{number}.png\t{name}\t0\t0\t3\t3\n")
    return tmp_path


def test_images_have_their_classes(root):
    train, test = TinyImageNet(str(root)).load()
    assert train.target.tolist() == [0, 0, 1, 1]
    assert train.image[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    assert test.target.tolist() == [1, 0, 1]
    assert test.image[:, 0, 0].tolist() == [[grey] * 3 for grey in (50, 51, 52)]


def test_changed_labels_of_cached_images_are_read(root):
    TinyImageNet(str(root)).load()
    path = root / "val/val_annotations.txt"
    swapped = {"n01": "n02", "n02": "n01"}
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{name}\t{swapped[label]}\n" for name, label, *_ in rows))
    _, test = TinyImageNet(str(root)).load()
    assert test.target.tolist() == [0, 1, 0]
    assert test.image[:, 0, 0, 0].tolist() == [50, 51, 52]


def test_missing_files_are_reported(root, tmp_path):
    (root / "val/val_annotations.txt").unlink()
    for folder, message in (
        (root, f"cannot read {root}/val/val_annotations.txt: No such file or directory"),
        (tmp_path / "none", f"no folder {tmp_path}/none/train: Tiny ImageNet is not in"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            TinyImageNet(str(folder)).describe()


def test_a_class_without_its_folder_of_images_is_reported(root):
    (root / "train/n03").mkdir()
    message = f"no folder {root}/train/n03/images: Tiny ImageNet is incomplete"
    with pytest.raises(UserError, match=re.escape(message)):
        TinyImageNet(str(root)).describe()
