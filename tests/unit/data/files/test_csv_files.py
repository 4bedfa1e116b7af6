"""CSV files of paths and labels: reading them, and errors."""

import re

import pytest
import torch
from helpers.image_files import write_folder, write_tables

from kd_bench.data.files.csv_files import CsvFiles
from kd_bench.data.image_folder import ImageFolder
from kd_bench.interfaces import UserError


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path)
    write_tables(tmp_path)
    return tmp_path


def source(root, size=None):
    return CsvFiles(str(root), size, "train.csv", "test.csv")


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


def test_csv_files_of_a_folder_have_the_images_of_that_folder(root):
    described = ImageFolder(str(root), None).describe()
    assert source(root).describe() == described
    for mine, theirs in zip(source(root).load(), ImageFolder(str(root), None).load(), strict=True):
        assert torch.equal(mine.image, theirs.image)
        assert torch.equal(mine.target, theirs.target)


def test_images_are_in_the_order_of_the_rows_and_paths_may_be_absolute(root):
    lines = ["path,label,note", f"{root}/train/bee/001.jpg,bee,x", "train/ant/000.jpg,ant,"]
    (root / "train.csv").write_text("\n".join(lines))
    train, _ = source(root).load()
    assert train.target.tolist() == [1, 0]
    both, _ = ImageFolder(str(root), None).load()
    assert torch.equal(train.image[1], both.image[0])


def test_labels_that_are_whole_numbers_are_sorted_numerically(root):
    names = ["9", "10", "2"]
    rows = [f"train/ant/000.jpg,{name}" for name in names]
    for split in ("train", "test"):
        (root / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    assert source(root).load()[0].target.tolist() == [1, 2, 0]


def test_changed_labels_invalidate_the_cache(root):
    assert source(root).load()[0].target.tolist() == [0] * 6 + [1] * 6
    text = (root / "train.csv").read_text().splitlines()
    text[1] = text[1].replace("ant,", "bee,")  # the label; the path stays
    (root / "train.csv").write_text("\n".join(text))
    assert source(root).load()[0].target.tolist() == [1] + [0] * 5 + [1] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.jpg,ant\n", "must have the columns path, label in its first line, got"),
        ("", "must have the columns path, label in its first line, got nothing"),
        ("path,label\n", "train.csv lists no images"),
        ("path,label\na.jpg,ant\nb.jpg,\n", "train.csv, line 3: needs path and label"),
        ("path,label\na.jpg\n", "train.csv, line 2: needs path and label"),
        ("path,label\nnone.jpg,ant\nnone.jpg,bee\n", "none.jpg does not exist"),
        ("path,label\na.jpg,cow\n", "only in train: cow; only in test: ant, bee"),
    ],
)
def test_an_invalid_csv_file_is_refused(root, text, message):
    (root / "train.csv").write_text(text)
    with refused(message):
        source(root).describe()


def test_a_missing_csv_file_is_reported(tmp_path):
    with refused(f"no file {tmp_path}/train.csv"):
        source(tmp_path).describe()
