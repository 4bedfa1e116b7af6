"""The files of a run's folder: their names, and its record."""

from __future__ import annotations

import json
import time
from pathlib import Path

from kd_bench.results.record import Record
from kd_bench.utils.lock import lock_owner

RESULT = "result.json"  # the record; it is written last, so its presence means the job is done
ERROR = "error.txt"  # why the last attempt failed, the reason in its first line
HISTORY = "history.csv"  # a row per epoch; equal bits between equal runs
TIMING = "timing.csv"  # seconds and images/s of each epoch
WEIGHTS = "weights.pt"  # the student's, of a finished job
CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished one, the newest first
CONSOLE = "console.log"  # what a sweep's job printed
TENSORBOARD = "tensorboard"  # folder of event files
# Below the runs folder:
TEACHER_CACHES = ".tables"  # a folder per cache of a teacher's outputs
SWEEPS = ".sweeps"  # the jobs of each sweep


def is_done(folder: Path) -> bool:
    """Whether the folder's job has its result."""
    return (folder / RESULT).exists()


def read_record(folder: Path) -> Record | None:
    """The record of a finished job, None where there is none (yet)."""
    try:
        text = (folder / RESULT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return Record.from_json(json.loads(text), folder / RESULT)


def read_error(folder: Path) -> str | None:
    """Why the folder's job failed, in one line; None where it did not."""
    try:
        text = (folder / ERROR).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return text.partition("\n")[0].strip()


def wait_while_locked(folder: Path, done: str, seconds: float = 0.5) -> None:
    """Wait while another process works in a folder, until it leaves or its file `done` is there."""
    while not (folder / done).exists() and lock_owner(folder):
        time.sleep(seconds)
