"""A job's state after its last finished epoch, on disk; a damaged one is set aside, not trusted."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from kd_bench.records import CHECKPOINTS, write_whole


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the state whole, and keep the one before it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    newest, before = (folder / name for name in CHECKPOINTS)
    if newest.exists():
        os.replace(newest, before)
    write_whole(newest, buffer.getvalue())


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none.

    A file that cannot be read is renamed to `<name>.damaged` with a warning that names it.
    """
    for path in (folder / name for name in CHECKPOINTS):
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises anything from EOFError to UnpicklingError
            damaged = path.with_suffix(".pt.damaged")
            os.replace(path, damaged)
            warnings.warn(f"set aside {damaged}: {str(error).splitlines()[0]}", stacklevel=2)
    return None


def remove(folder: Path) -> None:
    """Free what only an unfinished job needs."""
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)
