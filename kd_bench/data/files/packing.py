"""Writes packed copies of images, downscaled to what training needs; see `shards`."""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kd_bench.data.files.decode import ORIENTATION, decode, orientation, read
from kd_bench.data.files.image_files import SPLITS, ImageFiles, Listing
from kd_bench.data.files.shards import FORMAT, HASH, INDEX, image_hash, shard_name
from kd_bench.interfaces import UserError, require
from kd_bench.utils.files import file_hash, write_json
from kd_bench.utils.lock import LOCK, Lock, Locked
from kd_bench.utils.process import core_count
from kd_bench.utils.text.formatting import pluralize

SHARD = 2**27  # bytes; when a shard reaches this size, the next image starts a new one
QUALITY = 95  # of JPEG, for downscaled or rotated images
CHUNK = 512  # images in memory at a time


@dataclass(frozen=True)
class Copy:
    """One image to be packed."""

    content: bytes  # of an image file
    is_new: bool  # encoded again, since it was downscaled or rotated
    is_rotated: bool  # the original file has an EXIF rotation


@dataclass
class Report:
    """What was packed for a split."""

    images: int = 0
    bytes: int = 0
    smaller: int = 0  # images that were downscaled or rotated
    rotated: list[str] = field(default_factory=list)  # files with an EXIF rotation


def pack(
    source: ImageFiles,
    to: Path,
    *,
    short_side: int,
    upright: bool,
    bad: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> dict[str, Report]:
    """Write copies of all images of a source to a new folder, which appears once complete.

    Args:
        source: lists the images.
        to: the folder.
        short_side: larger images are downscaled so that this is their shorter side; others are
            copied byte by byte.
        upright: rotate images as their EXIF data specifies.
        bad: called with a line about each image that cannot be decoded.
        progress: called with the split, the number of images done, and their total.

    Returns:
        What was packed for each split.

    Raises:
        UserError: images cannot be decoded (raised after all have been tried; nothing is written),
            the folder exists, another process is writing it, or it cannot be written.
    """
    damaged = 0
    reports = {split: Report() for split in SPLITS}
    with _new_folder(to) as folder, _writers(folder) as writers:
        for writer, listing in zip(writers, source.listings, strict=True):
            copies = _copies(listing, short_side, upright)
            for done, (path, target, made) in enumerate(copies, 1):
                progress(writer.split, done, len(listing.files))
                if isinstance(made, UserError):
                    bad(str(made))
                    damaged += 1
                elif not damaged:  # after a damaged image, the rest is only checked
                    writer.add(made.content, target, os.path.relpath(path, source.root))
                    _count(reports[writer.split], path, made)
        require(
            not damaged,
            f"{pluralize(damaged, 'image')} cannot be decoded (see above); repair or remove"
            f" {'it' if damaged == 1 else 'them'}, and start again",
        )
        index = {
            "format": FORMAT,
            "classes": source.listings[0].classes,
            "splits": {writer.split: writer.finish() for writer in writers},
            "made": {"short_side": short_side, "upright": upright, "quality": QUALITY},
        }
        write_json(folder / INDEX, index)
    return reports


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A new folder that is renamed to `to` at the end; other processes are locked out meanwhile.

    It is created in `<to>.part`, whose lock is held. Leftovers of a killed process are removed.

    Raises:
        UserError: `to` exists, another process is writing it, or it cannot be written.
    """
    exists = f"{to} already exists; remove it, or choose another folder with --to"
    require(not to.exists(), exists)
    part = to.with_name(f"{to.name}.part")
    folder = part / uuid.uuid4().hex  # unique, in case another process takes over the lock
    try:
        with _locked(part) as lock:
            require(not to.exists(), exists)  # another process may have finished it meanwhile
            _clear(part)
            try:
                folder.mkdir()
                yield folder
                lock.check()
                os.replace(folder, to)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except Locked as owner:
        raise UserError(
            f"{to} is being written by {owner}; wait for it, or choose another folder with --to"
        ) from None


@contextmanager
def _locked(part: Path) -> Iterator[Lock]:
    """Create and lock a folder; remove it afterwards if it is empty."""
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, part)
        try:
            part.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(Lock(part))
        except OSError as error:
            raise UserError(f"cannot write to {part.parent}: {error.strerror}") from None
        yield lock


def _remove_if_empty(part: Path) -> None:
    with suppress(OSError):  # another process has locked it
        part.rmdir()


def _clear(part: Path) -> None:
    """Remove the leftovers of a killed process: everything but locks."""
    for path in part.iterdir():
        if path.name == LOCK or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _writers(folder: Path) -> Iterator[list[_Writer]]:
    """A writer for each split; their files are closed at the end."""
    writers = [_Writer(folder, split) for split in SPLITS]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _copies(
    listing: Listing, short_side: int, upright: bool
) -> Iterator[tuple[str, int, Copy | UserError]]:
    """Path, label and copy of each image, in order; an error in place of a copy that failed."""

    def copy(path: str) -> Copy | UserError:
        try:
            return make_copy(path, short_side, upright)
        except UserError as error:
            return error

    with ThreadPoolExecutor(core_count()) as pool:
        for start in range(0, len(listing.files), CHUNK):
            files = listing.files[start : start + CHUNK]
            yield from zip(
                files, listing.target[start : start + CHUNK], pool.map(copy, files), strict=True
            )


def make_copy(path: str, short_side: int, upright: bool) -> Copy:
    """The content of an image file, or of a downscaled or rotated JPEG made from it.

    Raises:
        UserError: the image cannot be decoded.
    """
    content = read(path)
    pixels = decode(content, path)
    turn = orientation(content, path)
    height, width = pixels.shape[:2]
    is_turned, is_large = upright and turn > 1, min(height, width) > short_side
    if not is_turned and not is_large:
        return Copy(content, is_new=False, is_rotated=turn > 1)
    image = Image.fromarray(pixels)
    if is_large:
        scale = short_side / min(height, width)
        size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if is_turned:
        image.getexif()[ORIENTATION] = turn
        image = ImageOps.exif_transpose(image)
    made = io.BytesIO()
    image.save(made, "JPEG", quality=QUALITY)
    return Copy(made.getvalue(), is_new=True, is_rotated=turn > 1)


def _count(report: Report, path: str, made: Copy) -> None:
    report.images += 1
    report.bytes += len(made.content)
    report.smaller += made.is_new
    if made.is_rotated:
        report.rotated.append(path)


class _Writer:
    """Writes the shards and the table of a split."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self._lengths: list[int] = []
        self._rows: list[tuple[int, int, int, bytes, int, bytes]] = []
        self._file: io.BufferedWriter | None = None

    def add(self, content: bytes, target: int, name: str) -> None:
        """Write an image."""
        if self._file is None or self._lengths[-1] >= SHARD:
            self.close()
            self._file = open(self.folder / shard_name(self.split, len(self._lengths)), "xb")  # noqa: SIM115
            self._lengths.append(0)
        shard, offset = len(self._lengths) - 1, self._lengths[-1]
        self._file.write(content)
        self._lengths[-1] += len(content)
        row = (shard, offset, len(content), image_hash(content), target, os.fsencode(name))
        self._rows.append(row)

    def finish(self) -> dict[str, Any]:
        """Write the table; returns the split's entry in the index."""
        self.close()
        path = self.folder / f"{self.split}.npz"
        shard, offset, length, digest, target, name = zip(*self._rows, strict=True)
        with open(path, "xb") as file:
            np.savez(
                file,
                shard=np.array(shard, dtype=np.int32),
                offset=np.array(offset, dtype=np.int64),
                length=np.array(length, dtype=np.int64),
                hash=np.frombuffer(b"".join(digest), dtype=np.uint8).reshape(-1, HASH),
                target=np.array(target, dtype=np.int64),
                name=np.array(name),
            )
            file.flush()
            os.fsync(file.fileno())
        return {"table": file_hash(path), "shards": self._lengths}

    def close(self) -> None:
        """Close the shard that is being written."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
