"""What a job's folder tells without its process: done, running, failed or left, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kd_bench.jobs.job import Job
from kd_bench.results.run_folder import CHECKPOINTS, read_result
from kd_bench.utils import formatting
from kd_bench.utils.lock import lock_owner_text

DONE, RUNNING, FAILED, PENDING = "done", "running", "failed", "left"
KINDS = (DONE, RUNNING, FAILED, PENDING)


@dataclass(frozen=True)
class Progress:
    """How far a job came, by its history.csv and timing.csv."""

    epoch: int  # that is over
    accuracy: float  # percent of the test images, after it
    images_per_second: float
    seconds_per_epoch: float  # training and evaluation


@dataclass(frozen=True)
class JobStatus:
    """What is known of a job."""

    kind: str  # one of KINDS
    record: dict | None = None  # of one that is done
    owner: str = ""  # who trains one that is running: process 4711 on somehost
    reason: str = ""  # why one failed
    progress: Progress | None = None  # of one that runs, or will go on from there


def job_status(job: Job) -> JobStatus:
    """What a job's folder tells."""
    # The lock is looked at first: a job that ends in between is found done.
    owner = lock_owner_text(job.path)
    if (record := read_result(job.path)) is not None:
        return JobStatus(DONE, record)
    progress = read_progress(job.path)
    if owner is not None:
        return JobStatus(RUNNING, owner=owner, progress=progress)
    if not any((job.path / name).exists() for name in CHECKPOINTS):
        progress = None  # nothing to go on from
    if (reason := _reason(job.path)) is not None:
        return JobStatus(FAILED, reason=reason, progress=progress)
    return JobStatus(PENDING, progress=progress)


def job_statuses(jobs: Sequence[Job]) -> dict[str, JobStatus]:
    """By folder, what each job's folder tells; where a teacher failed, so did who waits for it."""
    found: dict[str, JobStatus] = {}
    for job in jobs:  # teachers come first
        found[job.folder] = job_status(job)
        waits = found[job.folder].kind == PENDING and job.after in found
        if waits and found[job.after].kind == FAILED:
            found[job.folder] = JobStatus(FAILED, reason=f"its teacher failed: {job.after}")
    return found


def _reason(folder: Path) -> str | None:
    try:
        return (folder / "error.txt").read_text(errors="replace").partition("\n")[0].strip()
    except FileNotFoundError:
        return None


def read_progress(folder: Path) -> Progress | None:
    """How far the job in a folder came; None before its first epoch is over."""
    try:
        history, timing = (_rows(folder / name) for name in ("history.csv", "timing.csv"))
    except FileNotFoundError:
        return None
    return Progress(
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
        f" {state.progress.images_per_second:,.0f} images/s, {formatting.format_duration(left)} left"
    )
