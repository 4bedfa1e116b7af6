"""On-disk cache of decoded images, keyed by their source files and shared by all jobs.

A file contains the hash of its tensors, which is verified on every read.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from kd_bench.utils.errors import message_lines

FOLDER = ".kd_bench_cache"
ZIP_END = 22  # bytes of the end-of-central-directory record that torch.save writes


def folders(root: Path) -> list[Path]:
    """Candidate cache folders for `root`: inside it, or the user's cache if `root` is read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [root / FOLDER, Path(home) / "kd_bench"]


def find(root: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors saved as `key`, memory-mapped so that jobs share them.

    None if there are none, or, with a warning that names the file, if it is damaged.
    """
    for folder in folders(root):
        path = folder / f"{key}.pt"
        try:
            return _read(path)
        except FileNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001  # torch.load raises anything from EOFError to UnpicklingError
            reason = message_lines(error)[0]
            warnings.warn(f"{path} is damaged and will be rebuilt: {reason}", stacklevel=2)
    return None


def _read(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        file.seek(-ZIP_END, os.SEEK_END)
        if not file.read().startswith(b"PK\x05\x06"):  # torch.load would search further back
            raise ValueError("it is truncated, or data was appended")
    content = torch.load(path, weights_only=True, mmap=True)
    if not {"sha256", "tensors"} <= content.keys():
        raise ValueError("it has no hash, like files of kd-bench 0.1")
    if content["sha256"] != _hash(content["tensors"]):
        raise ValueError("its content does not match its hash")
    return content["tensors"]


def _hash(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in tensors.items():
        content.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        content.update(tensor.contiguous().numpy().data)
    return content.hexdigest()


def save(root: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Save tensors as `key`, atomically, even if other processes write the same file.

    If the cache cannot be written, a warning states why: jobs do not need it.
    """
    try:
        _write(root, key, tensors)
    except OSError as error:
        warnings.warn(f"images are not cached: {message_lines(error)[0]}", stacklevel=2)


def _write(root: Path, key: str, tensors: dict[str, Tensor]) -> None:
    inside, in_home = folders(root)
    folder = inside if os.access(root, os.W_OK) else in_home
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{key}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "xb") as file:
            torch.save({"sha256": _hash(tensors), "tensors": tensors}, file)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):  # a faster process deleted it, see below
            os.replace(part, folder / f"{key}.pt")
        for left in folder.glob(f"{key}.*.part"):  # of killed or slower processes
            left.unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)
