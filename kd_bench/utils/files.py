"""Atomic writes, hashes of files and values, and folders that can be written to."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from kd_bench.utils.errors import UserError


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, 16 hexadecimal digits."""
    content = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return content.hexdigest()[:16]


def json_hash(value: Any, digits: int) -> str:
    """SHA-256 of a value as JSON with sorted keys: its first hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file atomically: a temporary file beside it, flushed to disk, then renamed."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def ensure_writable_dir(folder: Path) -> None:
    """Create a folder, and check that files can be written there.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.writable"  # process ids are not unique over hosts
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.absolute()}: {error.strerror};"
            " choose another place with runs_dir=DIR"
        ) from None
