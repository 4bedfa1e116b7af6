"""The files in a run's folder: file names, the record and the error."""

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

RESULT = "result.json"  # the record; written last, so its existence means that the job is done
ERROR = "error.txt"  # why the last attempt failed; the first line is the reason
HISTORY = "history.csv"  # a row per epoch; bitwise equal between equal runs
TIMING = "timing.csv"  # seconds and images/s of each epoch
WEIGHTS = "weights.pt"  # the student's weights, of a finished job
TEST_LOGITS = "test_logits.pt"  # its logits for all test images, in half precision [N, K]
CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished job, newest first
CONSOLE = "console.log"  # output of a sweep's job
TENSORBOARD = "tensorboard"  # folder of event files
# Below the runs folder:
TEACHER_CACHES = ".tables"  # one folder per cache of a teacher's outputs
CACHED_ROWS = "rows.f32"  # the numbers in such a folder
CACHE_RECORD = "table.json"  # their description; written last, so it means the cache is complete
SWEEPS = ".sweeps"  # the jobs of each sweep


def is_done(folder: Path) -> bool:
    """Whether the folder's job is finished."""
    return (folder / RESULT).exists()


def read_record(folder: Path) -> Record | None:
    """The record of a finished job; None if it is not finished.

    Raises:
        DamagedError: the file is not a valid record.
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
        raise DamagedError(f"{path} is not a valid record: {error}") from None
    return Record.from_json(values, path)


def find_record(folder: Path) -> Record | None:
    """Like `read_record`, but warns and returns None if the record cannot be read."""
    try:
        return read_record(folder)
    except UserError as error:
        warn(f"left out: {error}")
        return None


def check_weights(folder: Path, record: Record) -> None:
    """Check that a finished job's weights match the hash in its record.

    Raises:
        UserError: they do not, or are missing; the message has the command to fix it.
    """
    path = folder / WEIGHTS
    again = f"delete its folder to train it again: rm -r {shlex.quote(str(folder))}"
    require(path.exists(), f"{path} is missing; {again}")
    require(
        record.weights_sha256 in (None, file_hash(path)),
        f"{path} does not match the hash in its record: it was damaged or replaced; {again}",
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
    """Write why the folder's job failed, in one line; warn if that is impossible."""
    path = folder / ERROR
    try:
        atomic_write(path, f"{reason}\n")
    except OSError as error:
        warn(f"cannot write {path}: {error.strerror}")


# A sweep's file: one line per job, and a last line with a checksum


def write_sweep_file(path: Path, lines: Iterable[str]) -> None:
    """Write a sweep's file atomically.

    Raises:
        UserError: its folder does not exist or was deleted.
    """
    text = "".join(f"{line}\n" for line in lines)
    try:
        atomic_write(path, text + _last_line(path, text))
    except FileNotFoundError:
        raise UserError(f"{path.parent} disappeared; start the same command again") from None


def read_sweep_file(path: Path) -> list[str]:
    """The lines of a sweep's file.

    Raises:
        DamagedError: it was not written by `write_sweep_file`, or changed since.
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
    """A checksum that includes the file's name, so that another sweep's file is not accepted."""
    content = f"{path.name}\n{text}".encode()
    return json.dumps({"sha256": hashlib.sha256(content).hexdigest()}) + "\n"


def wait_while_locked(folder: Path, done: str, seconds: float = 0.5) -> None:
    """Wait until no other process holds the lock of a folder, or its file `done` exists."""
    while not (folder / done).exists() and lock_owner(folder):
        time.sleep(seconds)
