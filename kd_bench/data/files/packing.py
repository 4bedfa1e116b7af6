"""Writes packed copies of images, none of them larger than training needs; see `shards`."""

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

SHARD = 2**27  # bytes from which on the next image begins a new one
QUALITY = 95  # of JPEG, for images that are made smaller or turned
CHUNK = 512  # images that are in memory at a time


@dataclass(frozen=True)
class Copy:
    """One image as it is packed."""

    content: bytes  # of a file
    is_new: bool  # made smaller, or turned
    is_rotated: bool  # by EXIF, in its file


@dataclass
class Report:
    """What was packed of a split."""

    images: int = 0
    bytes: int = 0
    smaller: int = 0  # images that were made smaller, or turned
    rotated: list[str] = field(default_factory=list)  # files that EXIF says to turn


def pack(
    source: ImageFiles,
    to: Path,
    *,
    short_side: int,
    upright: bool,
    bad: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> dict[str, Report]:
    """Write copies of all images of a source to a new folder; it appears when it is whole.

    Args:
        source: lists the images.
        to: the folder.
        short_side: larger images are made smaller, so that this is their shorter side; others are
            copied byte by byte.
        upright: turn images as their EXIF says.
        bad: called with a line about each image that cannot be decoded.
        progress: called with the split, and the numbers of images that are done and there are.

    Returns:
        What was packed of each split.

    Raises:
        UserError: images cannot be decoded; all others have been tried, and nothing is left. Or
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
                elif not damaged:  # otherwise the others are only tried
                    writer.add(made.content, target, os.path.relpath(path, source.root))
                    _count(reports[writer.split], path, made)
        require(
            not damaged,
            f"{pluralize(damaged, 'image')} cannot be decoded, named above; mend or remove"
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
    """A folder that becomes `to` when it is whole; no other process writes it meanwhile.

    It is made in `<to>.part`, whose lock is held. What a killed process left there is removed.

    Raises:
        UserError: `to` exists, another process is writing it, or it cannot be written.
    """
    exists = f"{to} exists already; remove it, or choose another place with --to"
    require(not to.exists(), exists)
    part = to.with_name(f"{to.name}.part")
    folder = part / uuid.uuid4().hex  # of this process alone, should another one take the lock
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
            f"{to} is being written by {owner}; wait for it, or choose another place with --to"
        ) from None


@contextmanager
def _locked(part: Path) -> Iterator[Lock]:
    """The lock of a folder, which is made, and removed if it is empty in the end."""
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
    """Remove what a killed process left: everything but locks."""
    for path in part.iterdir():
        if path.name == LOCK or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _writers(folder: Path) -> Iterator[list[_Writer]]:
    """A writer for each split; their files are closed in the end."""
    writers = [_Writer(folder, split) for split in SPLITS]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _copies(
    listing: Listing, short_side: int, upright: bool
) -> Iterator[tuple[str, int, Copy | UserError]]:
    """Path, label and copy of each image, in order; in place of a copy, why there is none."""

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
    """The content of an image file, or that of a smaller or a turned JPEG.

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
    """Writes the shards of a split, and its table."""

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
        """Write the table; what the index has of the split."""
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
