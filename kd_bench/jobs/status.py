"""The status of a job, read from its folder alone: done, running, failed or pending; progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kd_bench.jobs.job import Job
from kd_bench.results.record import Record
from kd_bench.results.run_folder import CHECKPOINTS, HISTORY, TIMING, read_error, read_record
from kd_bench.utils.formatting import format_duration
from kd_bench.utils.lock import lock_owner_text

DONE, RUNNING, FAILED, PENDING = "done", "running", "failed", "pending"
KINDS = (DONE, RUNNING, FAILED, PENDING)


@dataclass(frozen=True)
class JobProgress:
    """How far a job is, by its history.csv and timing.csv."""

    epoch: int  # the last one that ended
    accuracy: float  # percent of the test images, after it
    images_per_second: float
    seconds_per_epoch: float  # training and evaluation


@dataclass(frozen=True)
class JobStatus:
    """What a job's folder shows."""

    kind: str  # one of KINDS
    record: Record | None = None  # of one that is done
    owner: str = ""  # what trains a running one: process 4711 on somehost
    reason: str = ""  # why a failed one failed
    progress: JobProgress | None = None  # of one that is running, or will resume from there


def job_status(job: Job) -> JobStatus:
    """The status of one job."""
    # The lock is read first: a job that ends in between is found done.
    owner = lock_owner_text(job.path)
    if (record := read_record(job.path)) is not None:
        return JobStatus(DONE, record)
    progress = read_progress(job.path)
    if owner is not None:
        return JobStatus(RUNNING, owner=owner, progress=progress)
    if not any((job.path / name).exists() for name in CHECKPOINTS):
        progress = None  # nothing to resume from
    if (reason := read_error(job.path)) is not None:
        return JobStatus(FAILED, reason=reason, progress=progress)
    return JobStatus(PENDING, progress=progress)


def job_statuses(jobs: Sequence[Job]) -> dict[str, JobStatus]:
    """The status of each job by folder; a pending job whose teacher failed counts as failed."""
    found: dict[str, JobStatus] = {}
    for job in jobs:  # teachers come first
        found[job.folder] = job_status(job)
        teacher = job.teacher and found.get(job.teacher.folder)
        if teacher and teacher.kind == FAILED and found[job.folder].kind == PENDING:
            found[job.folder] = JobStatus(FAILED, reason=teacher_failed(job))
    return found


def teacher_failed(job: Job) -> str:
    """The reason of a job that cannot run because its teacher failed."""
    return f"its teacher failed: {job.teacher.folder}" if job.teacher else ""


def read_progress(folder: Path) -> JobProgress | None:
    """How far the job in a folder is; None before its first epoch has ended."""
    try:
        history, timing = (_rows(folder / name) for name in (HISTORY, TIMING))
    except FileNotFoundError:
        return None
    return JobProgress(
        epoch=int(history[-1]["epoch"]),
        accuracy=float(history[-1]["test_accuracy"]),
        images_per_second=float(timing[-1]["images_per_second"]),
        seconds_per_epoch=median(float(row["train"]) + float(row["evaluation"]) for row in timing),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    names, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


def progress_text(job: Job, state: JobStatus) -> str:
    """A running job's last epoch: epoch 12/20 93.40 % 5,210 images/s, 4 s left."""
    if state.progress is None:
        return "starting"
    left = (job.epochs - state.progress.epoch) * state.progress.seconds_per_epoch
    return (
        f"epoch {state.progress.epoch}/{job.epochs} {state.progress.accuracy:.2f} %"
        f" {state.progress.images_per_second:,.0f} images/s, {format_duration(left)} left"
    )
