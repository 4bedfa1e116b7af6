"""The files in a run's folder: their names, its record and its error."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterable
from pathlib import Path

from kd_bench.results.record import Record
from kd_bench.utils.errors import DamagedError, UserError, require, warn
from kd_bench.utils.files import atomic_write, file_hash
from kd_bench.utils.lock import lock_owner

RESULT = "result.json"  # the record; written last, so its presence means that the job is done
ERROR = "error.txt"  # why the last attempt failed; the first line is the reason
HISTORY = "history.csv"  # a row per epoch; bitwise equal between equal runs
TIMING = "timing.csv"  # seconds and images/s of each epoch
WEIGHTS = "weights.pt"  # the student's, of a finished job
TEST_LOGITS = "test_logits.pt"  # its logits for all test images, in half precision [N, K]
CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished job, newest first
CONSOLE = "console.log"  # output of a sweep's job
TENSORBOARD = "tensorboard"  # folder of event files
# Below the runs folder:
TEACHER_CACHES = ".tables"  # a folder per cache of a teacher's outputs
CACHED_ROWS = "rows.f32"  # in such a folder: its numbers,
CACHE_RECORD = "table.json"  # and what they are; written last, so its presence means it is whole
SWEEPS = ".sweeps"  # the jobs of each sweep


def is_done(folder: Path) -> bool:
    """Whether the folder's job is finished."""
    return (folder / RESULT).exists()


def read_record(folder: Path) -> Record | None:
    """The record of a finished job; None if it is not finished.

    Raises:
        DamagedError: the file is no record.
        UserError: it cannot be read, or another version of kd-bench wrote it.
    """
    path = folder / RESULT
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is no record: {error}") from None
    return Record.from_json(values, path)


def find_record(folder: Path) -> Record | None:
    """As `read_record`, but what cannot be read is left out, with a line to standard error."""
    try:
        return read_record(folder)
    except UserError as error:
        warn(f"left out: {error}")
        return None


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
    path = folder / ERROR
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    first = text.strip().partition("\n")[0].strip()
    readable = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in first
    )
    return readable or f"unknown: {path} is empty"


def write_error(folder: Path, reason: str) -> None:
    """Write why the folder's job failed, in one line; where even that is impossible, say so."""
    path = folder / ERROR
    try:
        atomic_write(path, f"{reason}\n")
    except OSError as error:
        warn(f"cannot write {path}: {error.strerror}")


# A sweep's file: a line for each job, and a last line by which damage is noticed


def write_sweep_file(path: Path, lines: Iterable[str]) -> None:
    """Write a sweep's file, whole or not at all.

    Raises:
        UserError: its folder is not there, or not any more.
    """
    text = "".join(f"{line}\n" for line in lines)
    try:
        atomic_write(path, text + _last_line(path, text))
    except FileNotFoundError:
        raise UserError(f"{path.parent} disappeared; start the same command again") from None


def read_sweep_file(path: Path) -> list[str]:
    """The lines of a sweep's file.

    Raises:
        DamagedError: it is not what `write_sweep_file` wrote.
        UserError: it cannot be read.
    """
    try:
        content = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    *lines, last = content.splitlines(keepends=True) or [""]
    if last != _last_line(path, "".join(lines)):
        raise DamagedError(
            f"{path} is damaged, or was written by another version of kd-bench; delete it: the jobs"
            " stay, and the command that started them writes it again"
        )
    return lines


def _last_line(path: Path, text: str) -> str:
    """A checksum, of the file's name as well: that of another sweep does not take its place."""
    content = f"{path.name}\n{text}".encode()
    return json.dumps({"sha256": hashlib.sha256(content).hexdigest()}) + "\n"


def wait_while_locked(folder: Path, done: str, seconds: float = 0.5) -> None:
    """Wait until no other process holds the lock of a folder, or its file `done` exists."""
    while not (folder / done).exists() and lock_owner(folder):
        time.sleep(seconds)
