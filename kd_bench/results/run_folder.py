"""The files of a run's folder: their names, and its result."""

from __future__ import annotations

import json
import time
from pathlib import Path

from kd_bench.utils.lock import lock_owner

WEIGHTS = "weights.pt"  # the student's, of a finished job


CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished one, the newest first


TABLES = ".tables"  # below the runs folder: what teachers say about all views


def read_result(folder: Path) -> dict | None:
    """The result of a finished job, None where there is none (yet)."""
    try:
        return json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return None


def wait_for(folder: Path, seconds: float = 0.5) -> dict | None:
    """Wait while another process works in a folder; its result, None if it left without one."""
    while read_result(folder) is None and lock_owner(folder):
        time.sleep(seconds)
    return read_result(folder)
