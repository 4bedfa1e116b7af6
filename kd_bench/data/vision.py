"""CIFAR-10, CIFAR-100, SVHN and Fashion-MNIST, downloaded and read by torchvision."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from kd_bench.data.source import Description, Split
from kd_bench.interfaces import UserError, require
from kd_bench.utils.torchvision import import_torchvision

# Raised by torchvision for missing or damaged files, depending on whether it has checksums
DAMAGED = (RuntimeError, ValueError, AssertionError)

# Where Debian's package installs the files.
DEBIAN, DEBIAN_PACKAGE = Path("/usr/share/datasets/fashion-mnist"), "dataset-fashion-mnist"


class TorchvisionSource:
    """A torchvision dataset in the folder `root`; its sizes are constants.

    A subclass defines the dataset, its sizes and files, and how torchvision reads one split.
    """

    title: str
    files: tuple[str, ...]  # relative to `root`; they exist if the dataset does
    num_classes: int
    size: int  # height = width
    train_size: int
    test_size: int

    def __init__(self, root: str, download: bool):
        self.root = Path(root).expanduser().absolute()
        self.download = download

    def describe(self) -> Description:
        """Sizes; raises UserError if files are missing and downloading is disabled."""
        require(
            self.is_there() or self.download,
            f"{self.title} is not in {self.root}: {self._remedy()}",
        )
        return Description(self.num_classes, self.size, self.size, self.train_size, self.test_size)

    def is_there(self) -> bool:
        """Whether its files are in `root`."""
        return all((self.root / file).exists() for file in self.files)

    def load(self) -> tuple[Split, Split]:
        """Both splits in their published order, downloaded first if enabled."""
        try:
            return self._load(download=False)
        except UserError:  # about a file that downloading would not replace
            raise
        except DAMAGED as error:
            if not self.download:
                raise UserError(
                    f"{self.title} in {self.root} is incomplete or damaged: {self._remedy()}"
                ) from error
        try:
            with _download_lock(self.root):
                return self._load(download=True)
        except (*DAMAGED, OSError) as error:
            reason = " ".join(str(error).split())  # torchvision's message has several lines
            raise UserError(
                f"{self.title} could not be downloaded to {self.root}: {reason}"
            ) from error

    def read(self, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, H, W, 3] and classes [N] of one split, from torchvision's arrays."""
        raise NotImplementedError

    def _load(self, download: bool) -> tuple[Split, Split]:
        pairs = [self.read(train, download) for train in (True, False)]
        train, test = (
            Split(
                torch.from_numpy(np.ascontiguousarray(image)),
                torch.from_numpy(np.asarray(target, dtype=np.int64)),
            )
            for image, target in pairs
        )
        return train, test

    def _remedy(self) -> str:
        return "download it with dataset.download=true, or set its folder with dataset.root=FOLDER"


class CIFAR10(TorchvisionSource):
    """CIFAR-10 (Krizhevsky, 2009): photos of 10 kinds of things."""

    title = "CIFAR-10"
    files = ("cifar-10-batches-py",)
    num_classes = 10
    size = 32
    train_size = 50_000
    test_size = 10_000

    def read(self, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images and classes of one split."""
        read = _datasets().CIFAR10(self.root, train=train, download=download)
        return read.data, read.targets


class CIFAR100(TorchvisionSource):
    """CIFAR-100 (Krizhevsky, 2009) with its 100 fine classes."""

    title = "CIFAR-100"
    files = ("cifar-100-python",)
    num_classes = 100
    size = 32
    train_size = 50_000
    test_size = 10_000

    def read(self, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images and fine classes of one split."""
        read = _datasets().CIFAR100(self.root, train=train, download=download)
        return read.data, read.targets


class SVHN(TorchvisionSource):
    """Street View House Numbers, cropped digits (Netzer et al., 2011), without the 'extra' images.

    Its files label the digit 0 as class 10; here, as in torchvision, it is class 0.
    """

    title = "SVHN"
    files = ("train_32x32.mat", "test_32x32.mat")
    num_classes = 10
    size = 32
    train_size = 73_257
    test_size = 26_032

    def read(self, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images and digits of one split."""
        split = "train" if train else "test"
        read = _datasets().SVHN(self.root, split=split, download=download)
        return read.data.transpose(0, 2, 3, 1), read.labels


class FashionMNIST(TorchvisionSource):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): gray, as 3 equal channels.

    From `root`, or from Debian's package dataset-fashion-mnist if it is installed and `root` has
    none.
    """

    title = "Fashion-MNIST"
    files = ("FashionMNIST/raw",)
    num_classes = 10
    size = 28
    train_size = 60_000
    test_size = 10_000

    def is_there(self) -> bool:
        """Whether it is in `root`, or installed."""
        return super().is_there() or DEBIAN.is_dir()

    def read(self, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images and classes of one split."""
        if super().is_there() or not DEBIAN.is_dir():
            read = _datasets().FashionMNIST(self.root, train=train, download=download)
            image, target = read.data.numpy(), read.targets.numpy()
        else:
            name = "train" if train else "t10k"
            image = _read_idx(DEBIAN / f"{name}-images-idx3-ubyte.gz")
            target = _read_idx(DEBIAN / f"{name}-labels-idx1-ubyte.gz")
        return np.repeat(image[..., None], 3, axis=3), target


def _read_idx(path: Path) -> np.ndarray:
    """The array in a compressed file of MNIST's format: big-endian shape, then bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged; reinstall {DEBIAN_PACKAGE}") from error


def _datasets() -> ModuleType:
    """torchvision.datasets, imported only when images are read: its import takes 2 s."""
    return import_torchvision().datasets


@contextmanager
def _download_lock(root: Path) -> Iterator[None]:
    """Lock a folder so that one process at a time downloads to it while the others wait."""
    import fcntl  # not available on Windows, where everything except downloading works

    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".kd_bench_download.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, even after a crash
        yield
