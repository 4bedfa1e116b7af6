"""One file per image: decoded once, cached and held in memory, or read one at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd_bench.data import cache
from kd_bench.data.files.decode import decode, naming, size_of
from kd_bench.data.source import Description, Split
from kd_bench.interfaces import UserError, require
from kd_bench.utils.files import json_hash
from kd_bench.utils.text.formatting import pluralize

SPLITS = ("train", "test")
THREADS = 4  # more do not help: the GIL limits decoding of small images
CHUNK = 64  # images per task


@dataclass(frozen=True)
class Listing:
    """The files of one split and their classes."""

    classes: list[str]  # sorted; the position is the class number
    files: list[str]  # paths
    target: list[int]


class ImageFiles:
    """A source whose images are files, which a subclass lists.

    Grayscale, palette and CMYK images become RGB; transparency is dropped. If loaded into memory,
    images are decoded once and cached on disk as uint8 tensors (see `cache`).

    Args:
        root: file names are relative to it, and it contains the cache.
        size: if null, images are unchanged and, if loaded into memory, must have the same size; if
            64, the largest centered square of each is resized to 64x64 (bilinear, antialiased).
    """

    def __init__(self, root: str, size: int | None):
        require(size is None or size > 0, f"dataset.source.size must be above 0, got {size}")
        self.root = Path(root).expanduser().absolute()
        self.size = size

    def list_files(self) -> tuple[Listing, Listing]:
        """The files of the training and the test images, with the same classes in both."""
        raise NotImplementedError

    def describe(self) -> Description:
        """Sizes, from the list of files and the header of the first image."""
        train, test = self.listings
        if self.size is None:
            width, height = size_of(train.files[0])
        else:
            width = height = self.size
        return Description(len(train.classes), height, width, len(train.files), len(test.files))

    def load(self) -> tuple[Split, Split]:
        """Both splits in the order of their lists, from the cache if possible."""
        key = self._key()
        tensors = cache.find(self.root, key)
        if tensors is None:
            tensors = self._decode()
            cache.save(self.root, key, tensors)
        train, test = (Split(tensors[f"{s}_image"], tensors[f"{s}_target"]) for s in SPLITS)
        return train, test

    def open(self) -> tuple[FileReader, FileReader]:
        """Both splits, to be read one image at a time."""
        train, test = (FileReader(self.root, listing, self.size) for listing in self.listings)
        return train, test

    @cached_property
    def listings(self) -> tuple[Listing, Listing]:
        """The result of `list_files`, checked and stored."""
        train, test = self.list_files()
        check_same_classes(self.root, train.classes, test.classes)
        return train, test

    def cache_facts(self) -> dict[str, object]:
        """What the cached tensors depend on besides `size` and the files: the labels."""
        return {"target": [listing.target for listing in self.listings]}

    def _key(self) -> str:
        """Cache key: a hash of `size`, all files (name, size, mtime) and `cache_facts`."""
        files = []
        for listing in self.listings:
            for path in listing.files:
                with naming(path):
                    stat = os.stat(path)
                files.append((_relative(path, self.root), stat.st_size, stat.st_mtime_ns))
        text = json.dumps({"size": self.size, "files": files, **self.cache_facts()})
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _decode(self) -> dict[str, Tensor]:
        described = self.describe()
        tensors = {}
        first = self.listings[0].files[0]
        for split, listing in zip(SPLITS, self.listings, strict=True):
            shape = (len(listing.files), described.height, described.width, 3)
            image = np.empty(shape, dtype=np.uint8)
            _decode_all(listing.files, image, self.size, first)
            tensors[f"{split}_image"] = torch.from_numpy(image)
            tensors[f"{split}_target"] = torch.tensor(listing.target)
        return tensors


class FileReader:
    """The images of one split, each from its file.

    Args:
        root: the folder that file names in the fingerprint are relative to.
        listing: files and classes.
        size: as for `ImageFiles`.
    """

    def __init__(self, root: Path, listing: Listing, size: int | None):
        self.size = size
        self.target = torch.tensor(listing.target)
        # One array: a list's reference counts would be written, and its pages copied, by each fork.
        self._paths = np.array([os.fsencode(path) for path in listing.files])
        self._root = root

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, sizes and labels of the files; copying the folder preserves it."""
        paths = [self.name(position) for position in range(len(self._paths))]
        sizes = []
        for path in paths:
            with naming(path):
                sizes.append(os.path.getsize(path))
        names = [_relative(path, self._root) for path in paths]
        return json_hash([names, sizes, self.target.tolist()], 64)

    @property
    def keys(self) -> Sequence[bytes]:
        """The paths of the images."""
        return self._paths.tolist()

    def read(self, position: int) -> np.ndarray:
        """One image, uint8 [H, W, 3]."""
        return decode_sized(self.name(position), self.size)

    def name(self, position: int) -> str:
        """The path of an image."""
        return os.fsdecode(self._paths[position])


def decode_sized(path: str, size: int | None) -> np.ndarray:
    """The image in a file, uint8 [H, W, 3], cropped and resized to a square if `size` is given."""
    image = decode(path)
    if size is None:
        return image
    fitted = ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(fitted)


def visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(seen, key=lambda entry: entry.name)


def check_same_classes(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    """Refuse training and test sets with different classes."""
    only = {"train": sorted({*train} - {*test}), "test": sorted({*test} - {*train})}
    differing = "; ".join(
        f"only in {split}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for split, names in only.items()
        if names
    )
    require(
        not differing,
        f"{root} has {pluralize(len(train), 'class')} in train and {len(test)} in test;"
        f" {differing}",
    )


def size_message(first: str, size: tuple[int, int], other: str, image: np.ndarray) -> str:
    """The error message about two images of different sizes; `size` is (height, width)."""
    return (
        f"images differ in size: {first} has {size[1]}x{size[0]} pixels, {other} has "
        f"{image.shape[1]}x{image.shape[0]}; set dataset.source.size to resize them"
    )


def _relative(path: str, root: Path) -> str:
    """The path relative to the root with forward slashes, or the path itself if outside of it."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _decode_all(files: list[str], out: np.ndarray, size: int | None, first: str) -> None:
    """Decode files into `out` [N, H, W, 3], with several threads."""

    def decode_some(start: int) -> None:
        for position, path in enumerate(files[start : start + CHUNK], start):
            image = decode_sized(path, size)
            common = out.shape[1:3]
            if image.shape[:2] != common:
                raise UserError(size_message(first, common, path, image))
            out[position] = image

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_some, range(0, len(files), CHUNK)):
            pass
