"""Estimates how long jobs take, from similar finished jobs; without any, the time is unknown."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kd_bench.config.identity import execution_text
from kd_bench.config.schema import total_epochs
from kd_bench.jobs.job import Job
from kd_bench.jobs.status import DONE, RUNNING, JobStatus
from kd_bench.results.record import Record
from kd_bench.utils.text.formatting import format_duration

SimilarityKey = tuple[str, ...]
WINDOW = 25  # number of latest jobs for the median; bounded, so that large sweeps stay fast


def similarity_keys(folder: str, identity: Mapping[str, Any]) -> tuple[SimilarityKey, ...]:
    """Keys that similar jobs share, from most to least similar.

    First: same student, data, pair, method and recipe, with other seeds or values. Second: also
    with another number of validation images. Third: same student and data.

    Args:
        folder: of the job.
        identity: of the job.
    """
    _, pair, method, _, _ = folder.split("/")
    dataset = identity["dataset"]
    undivided = {key: value for key, value in dataset.items() if key != "validation"}
    data, whole, model = (
        json.dumps(part, sort_keys=True) for part in (dataset, undivided, identity["model"])
    )
    execution = execution_text(identity)
    training = (model, execution, pair, method, identity["recipe"]["name"])
    return (
        ("same data", data, *training),
        ("any validation images", whole, *training),
        ("same student", whole, model, execution),
    )


@dataclass(frozen=True)
class Throughput:
    """Measured or expected speed of a job."""

    per_epoch: float  # seconds
    start: float = 0.0  # seconds, once per job: reading images, compiling
    is_rough: bool = False  # estimated from other methods or recipes

    def seconds(self, epochs: int) -> float:
        """Seconds for a job with this many epochs left."""
        return self.start + self.per_epoch * epochs


class ThroughputHistory:
    """The throughput of earlier jobs, looked up by similarity."""

    def __init__(self) -> None:
        self._by_key: dict[SimilarityKey, deque[Throughput]] = defaultdict(
            lambda: deque(maxlen=WINDOW)
        )

    def add(self, folder: str, identity: Mapping[str, Any], throughput: Throughput) -> None:
        """Add a job's throughput."""
        for key in similarity_keys(folder, identity):
            self._by_key[key].append(throughput)

    def add_record(self, record: Record, whole: float | None = None) -> None:
        """Add a finished job's throughput.

        Args:
            record: of the job.
            whole: seconds from the start of its process to the end; None: the record's value,
                which excludes the start of Python and PyTorch.
        """
        if whole is None:
            whole = record.seconds_of_process or record.seconds
        # A resumed job spent part of its training time in earlier processes.
        before = max(0.0, whole - record.seconds)
        warm_up = record.seconds_of_warm_up
        per_epoch = (record.seconds - warm_up) / total_epochs(record.config)
        self.add(record.folder, record.identity, Throughput(per_epoch, before + warm_up))

    def expected(self, folder: str, identity: Mapping[str, Any]) -> Throughput | None:
        """The median of the most similar jobs; None if there are none."""
        for number, key in enumerate(similarity_keys(folder, identity)):
            if found := self._by_key.get(key):
                return Throughput(
                    median(each.per_epoch for each in found),
                    median(each.start for each in found),
                    is_rough=number > 0,
                )
        return None


@dataclass(frozen=True)
class Estimate:
    """The remaining time of a job."""

    seconds: float
    is_rough: bool  # see `Throughput.is_rough`


def remaining(job: Job, status: JobStatus, history: ThroughputHistory) -> Estimate | None:
    """The remaining time of a job, from its own throughput or that of similar jobs.

    Returns:
        None if neither is known; 0 seconds for a job that is done.
    """
    if status.kind == DONE:
        return Estimate(0.0, is_rough=False)
    expected = history.expected(job.folder, job.identity)
    if status.progress is None:
        if expected is None:
            return None
        return Estimate(expected.seconds(job.epochs), expected.is_rough)
    start = expected.start if expected and status.kind != RUNNING else 0.0
    own = Throughput(status.progress.seconds_per_epoch, start)
    return Estimate(own.seconds(job.epochs - status.progress.epoch), is_rough=False)


def parallel_seconds(seconds: Sequence[float], slots: int) -> float:
    """The time of jobs in several slots, at least that of the longest job."""
    return max(sum(seconds) / slots, max(seconds, default=0.0))


def time_left_text(
    jobs: Sequence[tuple[Job, JobStatus]], history: ThroughputHistory, slots: int
) -> str:
    """The remaining time of unfinished jobs: about 2 min 10 s left.

    "At least" if only some jobs have an estimate; empty if none has one.
    """
    known = [found for job, status in jobs if (found := remaining(job, status, history))]
    if not known:
        return ""
    about = "about" if len(known) == len(jobs) else "at least"
    seconds = parallel_seconds([estimate.seconds for estimate in known], slots)
    return f"{about} {format_duration(seconds)} left"
