"""Atomic writes, hashes of files and values, and a check that a folder is writable."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kd_bench.utils.errors import UserError


def file_hash(path: str | Path, digits: int = 64) -> str:
    """The first hexadecimal digits of the SHA-256 of a file's content."""
    content = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return content.hexdigest()[:digits]


def json_hash(value: Any, digits: int) -> str:
    """The first hexadecimal digits of the SHA-256 of a value as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def atomic_write(
    path: Path,
    content: str | bytes | Sequence[bytes],
    *,
    check: Callable[[], None] = lambda: None,
    flush: bool = True,
) -> None:
    """Write a file atomically: write and flush a temporary file beside it, then rename it.

    Args:
        path: the file.
        content: the whole content; bytes may be passed in parts.
        check: called right before the rename; if it raises, the file stays unchanged.
        flush: if False, a power failure may leave the file empty. Only for files that are
            rewritten in that case.
    """
    if isinstance(content, str):
        content = content.encode()
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        check()
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if flush:
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a power failure keeps the order of writes."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # some file systems cannot flush folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, to_json(value))


def to_json(value: Any) -> str:
    """`value` as readable JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def ensure_writable_dir(folder: Path) -> None:
    """Create a folder and check that it is writable.

    Raises:
        UserError: it is not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # An unnamed file, which disappears even if the process is killed. File systems without
        # unnamed files get one that is named like a partly written file.
        with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".part") as probe:
            probe.write(b"1")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.absolute()}: {error.strerror};"
            " choose another place with runs_dir=DIR"
        ) from None
