"""Status and progress of a job, read from its folder alone: done, running, failed or pending."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kd_bench.jobs.job import Job
from kd_bench.results.record import Record
from kd_bench.results.run_folder import CHECKPOINTS, HISTORY, TIMING, read_error
from kd_bench.utils.errors import DamagedError, UserError
from kd_bench.utils.lock import lock_owner_text
from kd_bench.utils.text.formatting import format_duration

DONE, RUNNING, FAILED, PENDING = "done", "running", "failed", "pending"
KINDS = (DONE, RUNNING, FAILED, PENDING)
# The columns that are read for a job's progress; all of their values are below MOST.
COLUMNS = {
    HISTORY: ("epoch", "test_accuracy"),
    TIMING: ("train", "evaluation", "images_per_second"),
}
MOST = 1e15


@dataclass(frozen=True)
class JobProgress:
    """A job's progress, from its history.csv and timing.csv."""

    epoch: int  # the last finished one
    accuracy: float  # percent of the test images, after that epoch
    images_per_second: float
    seconds_per_epoch: float  # training and evaluation


@dataclass(frozen=True)
class JobStatus:
    """A job's status, read from its folder."""

    kind: str  # one of KINDS
    record: Record | None = None  # if done
    owner: str = ""  # if running, the lock holder: process 4711 on somehost
    reason: str = ""  # if failed, why
    progress: JobProgress | None = None  # if running or resumable
    damage: str = ""  # a file that could not be used, and why


def job_status(job: Job) -> JobStatus:
    """The status of one job."""
    # The lock is read before the record, so that a job that ends in between counts as done.
    owner = lock_owner_text(job.path)
    damage, progress = "", None
    try:
        if (record := job.read_record()) is not None:
            return JobStatus(DONE, record)
        progress = read_progress(job.path)
    except DamagedError as error:
        damage = str(error)
    except UserError as error:  # the job would fail with the same error
        return JobStatus(FAILED, reason=str(error))
    if owner is not None:
        return JobStatus(RUNNING, owner=owner, progress=progress, damage=damage)
    if not any((job.path / name).exists() for name in CHECKPOINTS):
        progress = None  # nothing to resume from
    if (reason := read_error(job.path)) is not None:
        return JobStatus(FAILED, reason=reason, progress=progress, damage=damage)
    return JobStatus(PENDING, progress=progress, damage=damage)


def job_statuses(jobs: Sequence[Job]) -> dict[str, JobStatus]:
    """The status of each job by folder; a pending job whose teacher failed counts as failed."""
    found: dict[str, JobStatus] = {}
    for job in jobs:  # teachers precede their students
        found[job.folder] = job_status(job)
        failed = [folder for folder, status in found.items() if status.kind == FAILED]
        if found[job.folder].kind == PENDING and (reason := teacher_failed(job, failed)):
            found[job.folder] = JobStatus(FAILED, reason=reason)
    return found


def teacher_failed(job: Job, failed: Collection[str]) -> str | None:
    """Why a job cannot run if one of its teachers is in `failed`; otherwise None."""
    folders = [teacher.folder for teacher in job.teachers if teacher.folder in failed]
    return f"its teacher failed: {folders[0]}" if folders else None


def read_progress(folder: Path) -> JobProgress | None:
    """The progress of the job in a folder; None before the end of its first epoch.

    Raises:
        DamagedError: history.csv or timing.csv is damaged.
    """
    history, timing = _columns(folder / HISTORY), _columns(folder / TIMING)
    if history is None or timing is None:
        return None
    seconds = map(sum, zip(timing["train"], timing["evaluation"], strict=True))
    return JobProgress(
        epoch=int(history["epoch"][-1]),
        accuracy=history["test_accuracy"][-1],
        images_per_second=timing["images_per_second"][-1],
        seconds_per_epoch=median(seconds),
    )


def _columns(path: Path) -> dict[str, list[float]] | None:
    """The `COLUMNS` of a CSV file with one row per epoch; None if the file does not exist."""
    try:
        names, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        return {name: list(map(_number, columns[name])) for name in COLUMNS[path.name]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, ValueError):
        raise DamagedError(f"{path} is damaged; its job will rewrite it") from None


def _number(text: str) -> float:
    if not 0 <= (number := float(text)) < MOST:
        raise ValueError(text)
    return number


def progress_text(job: Job, state: JobStatus) -> str:
    """A running job's last epoch: epoch 12/20 93.40 % 5,210 images/s, 4 s left."""
    if state.progress is None:
        return "starting"
    left = (job.epochs - state.progress.epoch) * state.progress.seconds_per_epoch
    return (
        f"epoch {state.progress.epoch}/{job.epochs} {state.progress.accuracy:.2f} %"
        f" {state.progress.images_per_second:,.0f} images/s, {format_duration(left)} left"
    )
