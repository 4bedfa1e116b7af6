"""Packed images: image files concatenated into large ones, with an index of hashes.

    index.json            classes, and for each split its shards and the hash of its table
    train.npz, test.npz   the table: shard, offset, length, hash, label and name of each image
    train-00000.shard     the images

The small index has a hash of each table, and a table has a hash of each image. So damage is
detected on reading, and the message names the damaged file or image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_bench.data import cache
from kd_bench.data.files.decode import decode, size_of
from kd_bench.data.files.image_files import SPLITS, size_message
from kd_bench.data.source import Description, Split
from kd_bench.interfaces import require
from kd_bench.utils.errors import DamagedError, UserError
from kd_bench.utils.files import file_hash, json_hash

INDEX = "index.json"
FORMAT = 1
COLUMNS = ("shard", "offset", "length", "hash", "target", "name")
HASH = 8  # leading bytes of the SHA-256 of an image


class Shards:
    """Images packed by `kd-bench prepare`: all of one size if in memory, any size if streamed."""

    def __init__(self, root: str):
        self.root = Path(root).expanduser().absolute()

    def describe(self) -> Description:
        """Sizes, from the tables and the header of the first image."""
        train, test = self.open()
        height, width = train.head()
        return Description(
            len(self._index["classes"]), height, width, len(train.target), len(test.target)
        )

    def load(self) -> tuple[Split, Split]:
        """Both splits, decoded, from the cache if possible."""
        readers = self.open()
        key = json_hash([reader.fingerprint for reader in readers], 32)
        tensors = cache.find(self.root, key)
        if tensors is None:
            tensors = {f"image{i}": _decode(reader) for i, reader in enumerate(readers)}
            cache.save(self.root, key, tensors)
        train, test = (
            Split(tensors[f"image{i}"], reader.target) for i, reader in enumerate(readers)
        )
        return train, test

    def open(self) -> tuple[ShardReader, ShardReader]:
        """Both splits, to be read one image at a time."""
        return self._readers

    @cached_property
    def _readers(self) -> tuple[ShardReader, ShardReader]:
        splits = self._index["splits"]
        train, test = (ShardReader(self.root, split, splits[split]) for split in SPLITS)
        return train, test

    @cached_property
    def _index(self) -> dict[str, Any]:
        path = self.root / INDEX
        try:
            index = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"no file {path}: pack images with kd-bench prepare FOLDER --to {self.root}, or set"
                " the folder of packed images with dataset.root=FOLDER"
            ) from None
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from None
        if not _has(index, "format", "classes", "splits"):
            raise DamagedError(f"{path} is damaged: format, classes or splits are missing")
        require(
            index["format"] == FORMAT, f"{path} was written by an incompatible version of kd-bench"
        )
        splits = index["splits"]
        is_whole = _has(splits, *SPLITS) and all(
            _has(splits[split], "table", "shards") for split in SPLITS
        )
        if not is_whole:
            raise DamagedError(f"{path} is damaged: the table or the shards of a split are missing")
        return index


class ShardReader:
    """The images of one split.

    Args:
        root: the folder.
        split: its name.
        about: `table` (the hash of its file) and `shards` (their lengths in bytes).
    """

    def __init__(self, root: Path, split: str, about: dict[str, Any]):
        self._root, self._split = root, split
        path = root / f"{split}.npz"
        if file_hash(path) != about["table"]:
            raise DamagedError(f"{path} is damaged: its content does not match its hash")
        with np.load(path) as table:
            self._table = {name: table[name] for name in COLUMNS}
        for number, length in enumerate(about["shards"]):
            self._check_length(self._shard(number), length)
        self.target = torch.from_numpy(self._table["target"])
        # Covers the labels and, through their hashes, the images.
        self.fingerprint = about["table"]

    @property
    def keys(self) -> list[bytes]:
        """The hashes of the images."""
        return [digest.tobytes() for digest in self._table["hash"]]

    def _check_length(self, path: Path, length: int) -> None:
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DamagedError(f"cannot read {path}: {error.strerror}") from None
        if found != length:
            raise DamagedError(f"{path} is damaged: it has {found:,} bytes instead of {length:,}")

    def _shard(self, number: int) -> Path:
        return self._root / shard_name(self._split, number)

    def name(self, position: int) -> str:
        """The image's shard and its original file."""
        shard = self._shard(int(self._table["shard"][position]))
        return f"{shard}: {os.fsdecode(self._table['name'][position])}"

    def content(self, position: int) -> bytes:
        """The bytes of one image.

        Raises:
            DamagedError: they do not match their hash.
        """
        offset, length = (int(self._table[key][position]) for key in ("offset", "length"))
        with open(self._shard(int(self._table["shard"][position])), "rb", buffering=0) as file:
            content = os.pread(file.fileno(), length, offset)
        if image_hash(content) != self._table["hash"][position].tobytes():
            raise DamagedError(f"{self.name(position)} is damaged; pack the images again")
        return content

    def read(self, position: int) -> np.ndarray:
        """One image, uint8 [H, W, 3]."""
        return decode(self.content(position), self.name(position))

    def head(self) -> tuple[int, int]:
        """Height and width of the first image."""
        width, height = size_of(io.BytesIO(self.content(0)), self.name(0))
        return height, width


def shard_name(split: str, number: int) -> str:
    """The name of a shard's file: train-00000.shard."""
    return f"{split}-{number:05}.shard"


def image_hash(content: bytes) -> bytes:
    """The first bytes of the SHA-256 of an image."""
    return hashlib.sha256(content).digest()[:HASH]


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and value.keys() >= set(keys)


def _decode(reader: ShardReader) -> torch.Tensor:
    """All images of a split, uint8 [N, H, W, 3]; all must have one size."""
    size = reader.head()
    out = np.empty((len(reader.target), *size, 3), dtype=np.uint8)
    for position in range(len(out)):
        image = reader.read(position)
        if image.shape[:2] != size:
            raise UserError(size_message(reader.name(0), size, reader.name(position), image))
        out[position] = image
    return torch.from_numpy(out)
