"""Estimates how long jobs take, from similar finished jobs; unknown where there are none."""

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
from kd_bench.utils.formatting import format_duration

SimilarityKey = tuple[str, ...]
WINDOW = 25  # the latest jobs, of which a median is taken: large sweeps must not slow down


def similarity_keys(folder: str, identity: Mapping[str, Any]) -> tuple[SimilarityKey, ...]:
    """What similar jobs share: the same job with another seed; the same student and data.

    Args:
        folder: of the job.
        identity: of the job.
    """
    data, model = (json.dumps(identity[part], sort_keys=True) for part in ("dataset", "model"))
    return (folder.rpartition("/")[0],), (data, model, execution_text(identity))


@dataclass(frozen=True)
class Throughput:
    """How fast a job ran, or is expected to."""

    per_epoch: float  # seconds
    start: float = 0.0  # seconds once, however many epochs: reading images, compiling
    is_rough: bool = False  # from other methods or recipes, not from the same job's other seeds

    def seconds(self, epochs: int) -> float:
        """Seconds for a job with so many epochs to go."""
        return self.start + self.per_epoch * epochs


class ThroughputHistory:
    """The throughput of jobs that ran, looked up by similarity."""

    def __init__(self) -> None:
        self._by_key: dict[SimilarityKey, deque[Throughput]] = defaultdict(
            lambda: deque(maxlen=WINDOW)
        )

    def add(self, folder: str, identity: Mapping[str, Any], throughput: Throughput) -> None:
        """Add that of a job."""
        for key in similarity_keys(folder, identity):
            self._by_key[key].append(throughput)

    def add_record(self, record: Record, whole: float | None = None) -> None:
        """Add that of a finished job.

        Args:
            record: of the job.
            whole: seconds from its process's start to its end; None: those of the record, which
                leave out the start of Python and PyTorch.
        """
        if whole is None:
            whole = record.seconds_of_process or record.seconds
        # A resumed job has seconds of training that its last process did not take.
        before = max(0.0, whole - record.seconds)
        warm_up = record.seconds_of_warm_up
        per_epoch = (record.seconds - warm_up) / total_epochs(record.config)
        self.add(record.folder, record.identity, Throughput(per_epoch, before + warm_up))

    def expected(self, folder: str, identity: Mapping[str, Any]) -> Throughput | None:
        """The median of the most similar jobs; None where there are none."""
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
    """Seconds that a job still takes."""

    seconds: float
    is_rough: bool


def remaining(job: Job, status: JobStatus, history: ThroughputHistory) -> Estimate | None:
    """The time that a job still takes, by its own throughput or else that of similar jobs.

    Returns:
        None where nothing is known to go by; 0 seconds for a job that is done.
    """
    if status.kind == DONE:
        return Estimate(0.0, is_rough=False)
    expected = history.expected(job.folder, job.identity)
    if status.progress is None:
        return expected and Estimate(expected.seconds(job.epochs), expected.is_rough)
    start = expected.start if expected and status.kind != RUNNING else 0.0
    own = Throughput(status.progress.seconds_per_epoch, start)
    return Estimate(own.seconds(job.epochs - status.progress.epoch), is_rough=False)


def parallel_seconds(seconds: Sequence[float], places: int) -> float:
    """How long jobs take that run in several places: no less than the longest of them."""
    return max(sum(seconds) / places, max(seconds, default=0.0))


def time_left_text(
    jobs: Sequence[tuple[Job, JobStatus]], history: ThroughputHistory, places: int
) -> str:
    """The time left of unfinished jobs that share some places: about 2 min 10 s left.

    Empty where nothing is known; "at least" where some jobs are like none that ran.
    """
    known = [found for job, status in jobs if (found := remaining(job, status, history))]
    if not known:
        return ""
    about = "about" if len(known) == len(jobs) else "at least"
    seconds = parallel_seconds([estimate.seconds for estimate in known], places)
    return f"{about} {format_duration(seconds)} left"
