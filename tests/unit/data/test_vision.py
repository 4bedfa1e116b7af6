"""Torchvision datasets: tiny files in the real formats, read by torchvision's own classes."""

import gzip
import pickle
import re
import threading
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch

from kd_bench.data import vision
from kd_bench.data.dataset import Dataset
from kd_bench.interfaces import UserError
from kd_bench.utils.torchvision import import_torchvision

torchvision = import_torchvision()
TRAIN, TEST = 20, 10
GENERATOR = np.random.default_rng(0)
IMAGES = {
    size: GENERATOR.integers(256, size=(TRAIN + TEST, size, size, 3), dtype=np.uint8)
    for size in (32, 28)
}
LABELS = [k % 10 for k in range(TRAIN + TEST)]


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch):
    """Hide Debian's package of Fashion-MNIST, if it is installed."""
    monkeypatch.setattr(vision, "DEBIAN", tmp_path / "installed")


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def planes(images):
    """CIFAR's rows: 1,024 red, 1,024 green, 1,024 blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_cifar10(root):
    folder, images = root / "cifar-10-batches-py", IMAGES[32]
    for batch in range(5):
        part = slice(4 * batch, 4 * batch + 4)
        content = {"data": planes(images[part]), "labels": LABELS[part]}
        write_pickle(folder / f"data_batch_{batch + 1}", content)
    content = {"data": planes(images[TRAIN:]), "labels": LABELS[TRAIN:]}
    write_pickle(folder / "test_batch", content)
    write_pickle(folder / "batches.meta", {"label_names": [str(k) for k in range(10)]})


def write_cifar100(root):
    folder, images = root / "cifar-100-python", IMAGES[32]
    for name, part in (("train", slice(None, TRAIN)), ("test", slice(TRAIN, None))):
        labels = {"fine_labels": LABELS[part], "coarse_labels": [0] * len(LABELS[part])}
        write_pickle(folder / name, {"data": planes(images[part]), **labels})
    write_pickle(folder / "meta", {"fine_label_names": [str(k) for k in range(100)]})


def write_svhn(root):
    for name, part in (("train", slice(None, TRAIN)), ("test", slice(TRAIN, None))):
        labels = np.array([[k or 10] for k in LABELS[part]])  # SVHN's digit 0 is class 10
        content = {"X": IMAGES[32][part].transpose(1, 2, 3, 0), "y": labels}
        scipy.io.savemat(root / f"{name}_32x32.mat", content)


def write_idx(path, array):
    """MNIST's format: two zero bytes, 8 for bytes, the dimensions, each length, the values."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_fashion_mnist(root):
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(None, TRAIN)), ("t10k", slice(TRAIN, None))):
        write_idx(folder / f"{name}-images-idx3-ubyte", IMAGES[28][part, :, :, 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte", np.array(LABELS[part]))


WRITERS = {
    vision.CIFAR10: write_cifar10,
    vision.CIFAR100: write_cifar100,
    vision.SVHN: write_svhn,
    vision.FashionMNIST: write_fashion_mnist,
}
KINDS = pytest.mark.parametrize("kind", list(WRITERS), ids=lambda kind: kind.__name__)


@pytest.fixture
def tiny_files_pass(monkeypatch):
    """Make torchvision accept files other than the published ones, by disabling checksums."""

    def exists(path, md5=None):
        return Path(path).is_file()

    for module in (torchvision.datasets.cifar, torchvision.datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", exists)


@KINDS
def test_images_and_labels_are_read_from_the_published_file_format(kind, tmp_path, tiny_files_pass):
    WRITERS[kind](tmp_path)
    source = kind(str(tmp_path), download=False)
    images = IMAGES[source.size].copy()
    if kind is vision.FashionMNIST:
        images[..., 1:] = images[..., :1]  # one gray channel three times
    train, test = source.load()
    assert torch.equal(train.image, torch.from_numpy(images[:TRAIN]))
    assert torch.equal(test.image, torch.from_numpy(images[TRAIN:]))
    assert (train.target.tolist(), test.target.tolist()) == (LABELS[:TRAIN], LABELS[TRAIN:])
    assert train.image.is_contiguous()
    assert train.target.dtype == torch.int64


def test_a_dataset_with_an_unexpected_size_is_refused(tmp_path, tiny_files_pass):
    write_cifar10(tmp_path)
    source = vision.CIFAR10(str(tmp_path), download=False)
    with pytest.raises(
        UserError, match=re.escape("images [50000, 32, 32, 3], got torch.uint8 [20")
    ):
        Dataset(source, pad=4, padding="zero", flip=True).load()


@KINDS
def test_sizes_are_known_without_decoding(kind, tmp_path):
    described = kind(str(tmp_path), download=True).describe()
    # as published by the datasets' authors
    published = {
        vision.CIFAR10: (10, 32, 32, 50_000, 10_000),
        vision.CIFAR100: (100, 32, 32, 50_000, 10_000),
        vision.SVHN: (10, 32, 32, 73_257, 26_032),
        vision.FashionMNIST: (10, 28, 28, 60_000, 10_000),
    }
    sizes = described.height, described.width, described.train_size, described.test_size
    assert (described.num_classes, *sizes) == published[kind]


@KINDS
def test_a_missing_dataset_is_reported_with_its_folder_and_a_fix(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        kind("data", download=False).describe()
    message = str(raised.value)
    assert message.startswith(f"{kind.title} is not in {tmp_path / 'data'}: ")
    assert "dataset.download=true" in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", [vision.CIFAR10, vision.CIFAR100, vision.SVHN])
def test_files_with_a_wrong_checksum_are_refused(kind, tmp_path):
    WRITERS[kind](tmp_path)
    with pytest.raises(UserError, match=r"is incomplete or damaged: .*dataset\.download=true"):
        kind(str(tmp_path), download=False).load()


def test_a_truncated_file_without_a_checksum_is_refused(tmp_path):
    write_fashion_mnist(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is incomplete or damaged"):
        vision.FashionMNIST(str(tmp_path), download=False).load()


def write_installed(folder):
    folder.mkdir()
    for name, part in (("train", slice(None, TRAIN)), ("t10k", slice(TRAIN, None))):
        for kind, array in (
            ("images-idx3", IMAGES[28][part, :, :, 0]),
            ("labels-idx1", np.array(LABELS[part])),
        ):
            path = folder / f"{name}-{kind}-ubyte"
            write_idx(path, array)
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


def test_fashion_mnist_is_read_from_debians_package(tmp_path):
    write_installed(tmp_path / "installed")
    installed = vision.FashionMNIST(str(tmp_path / "none"), download=False)
    assert installed.describe().train_size == 60_000
    write_fashion_mnist(tmp_path)
    own = vision.FashionMNIST(str(tmp_path), download=False)
    for mine, theirs in zip(installed.load(), own.load(), strict=True):
        assert torch.equal(mine.image, theirs.image)
        assert torch.equal(mine.target, theirs.target)


def test_files_in_the_root_are_preferred_to_installed_ones(tmp_path):
    write_installed(tmp_path / "installed")
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "FashionMNIST/raw/train-labels-idx1-ubyte", np.full(TRAIN, 3))
    train, _ = vision.FashionMNIST(str(tmp_path), download=False).load()
    assert train.target.tolist() == [3] * TRAIN


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"", lambda c: b"text"])
def test_a_damaged_installed_file_is_reported(tmp_path, damage):
    write_installed(tmp_path / "installed")
    path = tmp_path / "installed/t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} is damaged; reinstall dataset-fashion-mnist"):
        vision.FashionMNIST(str(tmp_path), download=False).load()


def test_a_missing_dataset_is_downloaded_if_enabled(tmp_path, monkeypatch, tiny_files_pass):
    def download(self):
        write_cifar10(Path(self.root))

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    root = tmp_path / "not" / "there"
    train, _ = vision.CIFAR10(str(root), download=True).load()
    assert train.target.tolist() == LABELS[:TRAIN]


def test_an_existing_dataset_is_not_downloaded_again(tmp_path, monkeypatch, tiny_files_pass):
    def download(self):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    write_cifar10(tmp_path)
    before = sorted(tmp_path.iterdir())
    train, _ = vision.CIFAR10(str(tmp_path), download=True).load()
    assert len(train.target) == TRAIN
    assert sorted(tmp_path.iterdir()) == before  # so the folder can be read-only


def test_a_failed_download_is_reported_in_one_line(tmp_path, monkeypatch):
    def download(self):
        raise RuntimeError("Error downloading data:\nTried https://example.org\n<no network>\n")

    monkeypatch.setattr(torchvision.datasets.SVHN, "download", download)
    with pytest.raises(UserError) as raised:
        vision.SVHN(str(tmp_path), download=True).load()
    message = str(raised.value)
    assert message.startswith(f"SVHN could not be downloaded to {tmp_path}: Error downloading")
    assert message.endswith("<no network>")
    assert "\n" not in message


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "data"
    message = f"CIFAR-10 could not be downloaded to {root}: [Errno 20] Not a directory"
    with pytest.raises(UserError, match=re.escape(message)):
        vision.CIFAR10(str(root), download=True).load()


def test_two_jobs_do_not_download_to_the_same_folder_at_once(tmp_path):
    events = []

    def second():
        with vision._download_lock(tmp_path):
            events.append("second")

    with vision._download_lock(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.2)
        events.append("first")
    waiting.join(timeout=10)
    assert events == ["first", "second"]
