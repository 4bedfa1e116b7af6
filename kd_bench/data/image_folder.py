"""Custom images: train/<class>/* and test/<class>/* in any format supported by PIL."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd_bench.data import cache
from kd_bench.data.source import Description, Split
from kd_bench.interfaces import UserError, require
from kd_bench.utils.text.formatting import pluralize

SPLITS = ("train", "test")
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # more than 8 bits: PIL would clip them
THREADS = 4  # more do not help: decoding small images is dominated by the GIL
CHUNK = 64  # images per task


@dataclass(frozen=True)
class Listing:
    """The files of one split, sorted by class and name."""

    classes: list[str]  # sorted; the position is the class label
    files: list[Path]
    target: list[int]


class ImageFolder:
    """The images of `root`, decoded once and cached as uint8 tensors (see `cache`).

    `size: null` uses images unchanged; they must all have the same size. `size: 64` crops the
    largest centered square and resizes it to 64x64 (bilinear, antialiased). Grayscale and palette
    images become RGB, transparency is dropped. Hidden files are skipped; other files that are not
    images raise an error.
    """

    def __init__(self, root: str, size: int | None):
        require(size is None or size > 0, f"dataset.source.size must be above 0, got {size}")
        self.root = Path(root).expanduser().absolute()
        self.size = size

    def describe(self) -> Description:
        """Sizes, from the list of files and the header of the first image."""
        train, test = self._listings
        if self.size is None:
            width, height = _head(train.files[0])
        else:
            width = height = self.size
        return Description(len(train.classes), height, width, len(train.files), len(test.files))

    def load(self) -> tuple[Split, Split]:
        """Both splits, sorted by class and file name; from the cache if it has them."""
        key = self._key()
        tensors = cache.find(self.root, key)
        if tensors is None:
            tensors = self._decode()
            cache.save(self.root, key, tensors)
        train, test = (Split(tensors[f"{s}_image"], tensors[f"{s}_target"]) for s in SPLITS)
        return train, test

    @cached_property
    def _listings(self) -> tuple[Listing, Listing]:
        train, test = (_list_split(self.root / split) for split in SPLITS)
        _check_same_classes(self.root, train.classes, test.classes)
        return train, test

    def _key(self) -> str:
        """Cache key of the decoded images: a hash of `size` and all files (name, size, mtime)."""
        files = []
        for listing in self._listings:
            for path in listing.files:
                with _naming(path):
                    stat = path.stat()
                name = path.relative_to(self.root).as_posix()
                files.append((name, stat.st_size, stat.st_mtime_ns))
        text = json.dumps({"size": self.size, "files": files})
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _decode(self) -> dict[str, Tensor]:
        described = self.describe()
        tensors = {}
        first = self._listings[0].files[0]
        for split, listing in zip(SPLITS, self._listings, strict=True):
            shape = (len(listing.files), described.height, described.width, 3)
            image = np.empty(shape, dtype=np.uint8)
            _decode_all(listing.files, image, self.size, first)
            tensors[f"{split}_image"] = torch.from_numpy(image)
            tensors[f"{split}_target"] = torch.tensor(listing.target)
        return tensors


def _list_split(folder: Path) -> Listing:
    require(
        folder.is_dir(),
        f"no folder {folder}: an image folder contains train/<class>/* and test/<class>/*; "
        "say where it is with dataset.root=FOLDER",
    )
    classes: list[str] = []
    files: list[Path] = []
    target: list[int] = []
    for entry in _visible(folder):
        is_folder = os.path.isdir(entry.path)
        kind = "file" if os.path.exists(entry.path) else "link to a folder that does not exist"
        require(is_folder, f"{entry.path} is a {kind}; {folder} must contain one folder per class")
        images = [Path(image.path) for image in _visible(entry)]
        require(bool(images), f"class folder {entry.path} has no images")
        files += images
        target += [len(classes)] * len(images)
        classes.append(entry.name)
    require(bool(classes), f"{folder} is empty; it must contain one folder per class")
    return Listing(classes, files, target)


def _visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(seen, key=lambda entry: entry.name)


def _check_same_classes(root: Path, train: list[str], test: list[str]) -> None:
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


def _decode_all(files: list[Path], out: np.ndarray, size: int | None, first: Path) -> None:
    """Decode files into `out` [N, H, W, 3], with several threads."""

    def decode_some(start: int) -> None:
        for position, path in enumerate(files[start : start + CHUNK], start):
            image = _decode_image(path, size)
            require(image.shape == out.shape[1:], _size_message(first, out, path, image))
            out[position] = image

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_some, range(0, len(files), CHUNK)):
            pass


def _size_message(first: Path, out: np.ndarray, other: Path, image: np.ndarray) -> str:
    return (
        f"images differ in size: {first} has {out.shape[2]}x{out.shape[1]} pixels, {other} has "
        f"{image.shape[1]}x{image.shape[0]}; set dataset.source.size to resize them"
    )


def _decode_image(path: Path, size: int | None) -> np.ndarray:
    """One image as uint8 [H, W, 3]."""
    with _naming(path), Image.open(path) as file:
        mode = file.mode
        require(mode not in DEEP, f"{path} has more than 8 bits per channel (PIL mode {mode})")
        image = file.convert("RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _head(path: Path) -> tuple[int, int]:
    """Width and height of an image, without decoding it."""
    with _naming(path), Image.open(path) as image:
        return image.size


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert errors about an image into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is a link to a file that does not exist") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large for PIL to decode: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:  # all raised by PIL for broken files
        raise UserError(f"{path} is not an image that PIL can read") from error
