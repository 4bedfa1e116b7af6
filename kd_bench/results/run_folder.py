"""The files in a run's folder: their names, its record and its error."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from kd_bench.results.record import Record
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash
from kd_bench.utils.lock import lock_owner

RESULT = "result.json"  # the record; written last, so its presence means that the job is done
ERROR = "error.txt"  # why the last attempt failed; the first line is the reason
HISTORY = "history.csv"  # a row per epoch; bitwise equal between equal runs
TIMING = "timing.csv"  # seconds and images/s of each epoch
WEIGHTS = "weights.pt"  # the student's, of a finished job
CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished job, newest first
CONSOLE = "console.log"  # output of a sweep's job
TENSORBOARD = "tensorboard"  # folder of event files
# Below the runs folder:
TEACHER_CACHES = ".tables"  # a folder per cache of a teacher's outputs
SWEEPS = ".sweeps"  # the jobs of each sweep


def is_done(folder: Path) -> bool:
    """Whether the folder's job is finished."""
    return (folder / RESULT).exists()


def read_record(folder: Path) -> Record | None:
    """The record of a finished job; None if it is not finished.

    Raises:
        UserError: the file is no record.
    """
    path = folder / RESULT
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is no record: {error}") from None
    return Record.from_json(values, path)


def check_weights(folder: Path, record: Record) -> None:
    """Check that a finished job's weights are those that its record vouches for.

    Raises:
        UserError: they are not, or are missing; it has the command that mends it.
    """
    path = folder / WEIGHTS
    again = f"delete its folder to train it again: rm -r {shlex.quote(str(folder))}"
    require(path.exists(), f"{path} is missing; {again}")
    require(
        record.weights_sha256 in (None, file_hash(path)),
        f"{path} is not the file that its record vouches for: it was damaged or replaced; {again}",
    )


def read_error(folder: Path) -> str | None:
    """Why the folder's job failed, in one line; None if it did not."""
    try:
        text = (folder / ERROR).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return text.partition("\n")[0].strip()


def wait_while_locked(folder: Path, done: str, seconds: float = 0.5) -> None:
    """Wait until no other process holds the lock of a folder, or its file `done` exists."""
    while not (folder / done).exists() and lock_owner(folder):
        time.sleep(seconds)
