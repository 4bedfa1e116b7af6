"""How long jobs take: told from like jobs that ran, and never invented."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kd_bench.config.identity import execution_text
from kd_bench.jobs.job import Job, total_epochs
from kd_bench.jobs.status import DONE, RUNNING, JobStatus
from kd_bench.utils import formatting

SimilarityKey = tuple[str, ...]
WINDOW = 25  # jobs to take a median of: the latest, so that large sweeps do not slow down


def similarity_keys(folder: str, identity: Mapping[str, Any], recipe: str) -> list[SimilarityKey]:
    """What two jobs may have in common, the most telling first.

    The same job but for its seed; the same data, networks, method and recipe with values changed;
    the same data and student; the same student on some of the data.
    """
    dataset, pair, method, digest, _ = folder.split("/")
    data, model = (json.dumps(identity[part], sort_keys=True) for part in ("dataset", "model"))
    speed = execution_text(identity)
    return [
        (dataset, pair, method, digest),
        (data, pair, method, recipe, speed),
        (data, model, speed),
        (dataset, model, speed),
    ]


@dataclass(frozen=True)
class Throughput:
    """How fast a job ran, or will run."""

    per_epoch: float  # seconds
    start: float = 0.0  # seconds once, however many epochs: reading images, compiling
    images: int | None = None  # training images, where they are known
    is_rough: bool = False  # told from jobs with little in common

    def seconds(self, epochs: int) -> float:
        """Of a job with so many epochs to go."""
        return self.start + self.per_epoch * epochs


class ThroughputHistory:
    """The paces of jobs that ran, found again by what a job has in common with them."""

    def __init__(self):
        self._by_likeness: dict[SimilarityKey, deque[Throughput]] = defaultdict(
            lambda: deque(maxlen=WINDOW)
        )
        self._kinds: dict[str, list[SimilarityKey]] = {}  # by folder

    def add(self, kinds: Iterable[SimilarityKey], pace: Throughput) -> None:
        """Remember a job's pace."""
        for kind in kinds:
            self._by_likeness[kind].append(pace)

    def of_job(self, job: Job, images: int | None = None) -> Throughput | None:
        """The pace to expect of a frozen job; see `of`."""
        if job.folder not in self._kinds:
            recipe = job.config["recipe"]["name"]
            self._kinds[job.folder] = similarity_keys(job.folder, job.identity, recipe)
        return self.of(self._kinds[job.folder], images)

    def add_record(self, record: Mapping[str, Any], whole: float | None = None) -> None:
        """Remember the pace of a finished job.

        Args:
            record: of the job.
            whole: seconds from its process's start to its end; None: what the record knows of it,
                which leaves out the start of Python and PyTorch.
        """
        seconds, epochs = record["seconds"], total_epochs(record["config"])
        recipe = record["config"]["recipe"]["name"]
        whole = record.get("seconds_of_process", seconds) if whole is None else whole
        before = max(0.0, whole - seconds)  # a resumed one has seconds that are not in `whole`
        warm_up = record.get("seconds_of_warm_up", 0.0)
        self.add(
            similarity_keys(record["folder"], record["identity"], recipe),
            Throughput((seconds - warm_up) / epochs, before + warm_up, record["images"]["train"]),
        )

    def of(self, kinds: Sequence[SimilarityKey], images: int | None = None) -> Throughput | None:
        """The pace to expect of a job: the median of those most like it; None where there are none.

        Args:
            kinds: what the job is, as from `similarity_keys`.
            images: training images; without, jobs on other images tell nothing.
        """
        *same_images, other_images = kinds
        for number, kind in enumerate(same_images):
            if found := self._by_likeness.get(kind):
                return _median(found, is_rough=number > 1)
        found = [p for p in self._by_likeness.get(other_images, ()) if p.images]
        if not found or not images:
            return None
        scaled = [Throughput(pace.per_epoch * images / pace.images, pace.start) for pace in found]
        return _median(scaled, is_rough=True)


def _median(paces: Sequence[Throughput], *, is_rough: bool) -> Throughput:
    return Throughput(
        median(pace.per_epoch for pace in paces),
        median(pace.start for pace in paces),
        is_rough=is_rough,
    )


@dataclass(frozen=True)
class Estimate:
    """Seconds that a job still takes."""

    seconds: float
    is_rough: bool


def remaining(
    job: Job, now: JobStatus, paces: ThroughputHistory, images: int | None = None
) -> Estimate | None:
    """The time that a job still takes, by its own pace or else by that of like jobs.

    Returns:
        None where nothing is known to go by; 0 seconds for a job that is done.
    """
    if now.kind == DONE:
        return Estimate(0.0, is_rough=False)
    expected = paces.of_job(job, images)
    if now.progress is None:
        return expected and Estimate(expected.seconds(job.epochs), expected.is_rough)
    start = expected.start if expected and now.kind != RUNNING else 0.0
    own = Throughput(now.progress.seconds_per_epoch, start)
    return Estimate(own.seconds(job.epochs - now.progress.epoch), is_rough=False)


def parallel_seconds(seconds: Sequence[float], places: int) -> float:
    """How long jobs take that run in several places: no less than the longest of them."""
    return max(sum(seconds) / places, max(seconds, default=0.0))


def time_left_text(
    jobs: Sequence[tuple[Job, JobStatus]], paces: ThroughputHistory, places: int
) -> str:
    """The time left of unfinished jobs that share some places: about 2 min 10 s left.

    Nothing where nothing is known; "at least" where some jobs are like none that ran.
    """
    known = [found for job, now in jobs if (found := remaining(job, now, paces))]
    if not known:
        return ""
    about = "about" if len(known) == len(jobs) else "at least"
    return f"{about} {formatting.format_duration(parallel_seconds([e.seconds for e in known], places))} left"
