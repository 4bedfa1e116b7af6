"""On-disk cache of decoded images, keyed by their source files and shared by all jobs."""

from __future__ import annotations

import os
import pickle
import uuid
from pathlib import Path

import torch
from torch import Tensor

from kd_bench.interfaces import UserError

FOLDER = ".kd_bench_cache"


def folders(root: Path) -> list[Path]:
    """Candidate cache folders for `root`: inside it, or the user's cache if `root` is read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [root / FOLDER, Path(home) / "kd_bench"]


def find(root: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors saved as `key`, memory-mapped so that jobs share them, or None."""
    for folder in folders(root):
        path = folder / f"{key}.pt"
        if path.exists():
            try:
                return torch.load(path, weights_only=True, mmap=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise UserError(
                    f"{path} is damaged: delete it, and it will be recreated"
                ) from error
    return None


def save(root: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Save tensors as `key`, atomically, even if other processes write the same file."""
    inside, in_home = folders(root)
    folder = inside if os.access(root, os.W_OK) else in_home
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{key}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "xb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / f"{key}.pt")
    finally:
        part.unlink(missing_ok=True)
