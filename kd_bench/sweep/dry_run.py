"""Shows what a sweep would do: which jobs are done, and the time and disk space of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_bench.config.schema import Device, Speed
from kd_bench.jobs.instantiate import describe_dataset, meta_network
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import variant
from kd_bench.jobs.status import (
    DONE,
    FAILED,
    RUNNING,
    JobStatus,
    job_statuses,
    progress_text,
)
from kd_bench.results.store import find_records, folder_size
from kd_bench.sweep.eta import (
    Estimate,
    SimilarityKey,
    Throughput,
    ThroughputHistory,
    parallel_seconds,
    remaining,
    similarity_keys,
)
from kd_bench.sweep.teacher_cost import teacher_costs
from kd_bench.training.device import choose_device
from kd_bench.utils.text.formatting import format_bytes, format_duration, pluralize
from kd_bench.utils.text.output import print_lines


@dataclass(frozen=True)
class Disk:
    """Disk space of a job when it has finished, in bytes."""

    size: int
    is_weights_alone: bool  # no similar job has finished, so other files are not counted


@dataclass(frozen=True)
class Compiling:
    """Seconds of a job with and without compile=true, estimated from finished jobs."""

    compiled: float
    eager: float


@dataclass(frozen=True)
class PlannedJob:
    """A job, its status, and the time and disk space that it still needs."""

    job: Job
    status: JobStatus
    time: Estimate | None  # None: unknown
    disk: Disk | None  # None: it is done
    compiling: Compiling | None = None  # None: unknown, or the job has started

    @property
    def line(self) -> str:
        """The job as one line: digits resnet20-resnet8 st seed 0: to do, about 4 s."""
        return f"{self.job.label}: {self._status_text()}"

    def _status_text(self) -> str:
        status, begun = self.status, self.status.progress
        if status.record is not None:
            return f"done: {status.record.accuracy.last:.2f} %"
        if status.kind == RUNNING:
            return f"running, {status.owner}: {progress_text(self.job, status)}"
        start = f" from epoch {begun.epoch + 1} of {self.job.epochs}" if begun else ""
        failed = f"; failed before: {status.reason}" if status.kind == FAILED else ""
        damage = f"; {status.damage}" if status.damage else ""
        return f"to do{start}, {self._time_text()}{failed}{damage}"

    def _time_text(self) -> str:
        if self.time is None:
            return "time unknown"
        about = "roughly" if self.time.is_rough else "about"
        return f"{about} {format_duration(self.time.seconds)}"


def print_plan(jobs: Sequence[Job], slots: int | None) -> None:
    """Print the plan of some jobs.

    Args:
        jobs: from `prepare_jobs`.
        slots: number of jobs that run at once; None if a cluster's scheduler decides.
    """
    planned = plan_jobs(jobs)
    for line in (*(each.line for each in planned), *totals(planned, slots)):
        print_lines(line)


def plan_jobs(jobs: Sequence[Job]) -> list[PlannedJob]:
    """The plan for each job, from its folder and from similar jobs in the runs folder."""
    statuses, history = job_statuses(jobs), History(jobs)
    for job in jobs:
        history.add_unfinished(job, statuses[job.folder])
    return [
        PlannedJob(
            job,
            status,
            remaining(job, status, history.throughputs),
            None if status.kind == DONE else history.disk(job),
            history.compiling(job) if status.progress is None else None,
        )
        for job in jobs
        for status in [statuses[job.folder]]
    ]


# History


class History:
    """Time and disk space used by the jobs of a runs folder."""

    def __init__(self, jobs: Sequence[Job]):
        self.throughputs = ThroughputHistory()
        self._sizes: dict[SimilarityKey, int] = {}
        self._compiling: dict[str, Compiling | None] = {}  # by folder, without the seed
        config = jobs[0].config
        device = config.device.value
        if config.device is Device.auto:  # an explicit device may be on another machine
            device = choose_device(config.device).type
        for folder in {Path(job.config.runs_dir, job.config.dataset.name) for job in jobs}:
            if folder.is_dir():
                self._add_records(folder, device)

    def _add_records(self, root: Path, device: str) -> None:
        for folder, record in find_records(root):
            size = folder_size(folder)
            for key in similarity_keys(record.folder, record.identity):
                # The largest, because some files of the other folders may have been cleaned up.
                self._sizes[key] = max(size, self._sizes.get(key, 0))
            if record.device == device:
                self.throughputs.add_record(record)

    def add_unfinished(self, job: Job, status: JobStatus) -> None:
        """Add the throughput of a job that has started."""
        if status.progress is not None:
            throughput = Throughput(status.progress.seconds_per_epoch)
            self.throughputs.add(job.folder, job.identity, throughput)

    def disk(self, job: Job) -> Disk:
        """Disk space for a job's folder."""
        for key in similarity_keys(job.folder, job.identity):
            if key in self._sizes:
                return Disk(self._sizes[key], is_weights_alone=False)
        return Disk(weights_size(job), is_weights_alone=True)

    def compiling(self, job: Job) -> Compiling | None:
        """The time with and without compiling; None unless similar jobs ran both ways."""
        if job.folder_without_seed not in self._compiling:
            self._compiling[job.folder_without_seed] = self._compiling_of(job)
        return self._compiling[job.folder_without_seed]

    def _compiling_of(self, job: Job) -> Compiling | None:
        if job.config.speed is Speed.reference:  # never compiled
            return None
        both = []
        for is_compiled in (True, False):
            twin = variant(job, compile=is_compiled)
            throughput = self.throughputs.expected(twin.folder, twin.identity)
            if throughput is None or throughput.is_rough:
                return None
            both.append(throughput.seconds(job.epochs))
        return Compiling(*both)


def weights_size(job: Job) -> int:
    """Size of a job's student in bytes."""
    network, _ = meta_network(job.config.model, describe_dataset(job.config.dataset))
    tensors = network.net.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Totals

SHORT = 60.0  # seconds of training below which the start-up time of a process matters


def totals(planned: Sequence[PlannedJob], slots: int | None) -> list[str]:
    """The number of finished and remaining jobs; time, disk space and teacher cost of the rest."""
    kinds = Counter(each.status.kind for each in planned)
    left = [each for each in planned if each.status.kind != DONE]
    to_do = len(left) - kinds[RUNNING]
    failed = f" ({kinds[FAILED]} failed before)" if kinds[FAILED] else ""
    counts = f"{pluralize(len(planned), 'job')}: {kinds[DONE]} done, {kinds[RUNNING]} running"
    lines = [f"{counts}, {to_do} to do{failed}"]
    if left:
        costs = teacher_costs([each.job for each in left])
        cached = sum(each.size for each in costs if each.is_cached)
        lines += [_time_line(left, slots), _disk_line(left, cached), *_compile_lines(left)]
        lines += [each.line for each in costs]
    return lines


def _time_line(left: Sequence[PlannedJob], slots: int | None) -> str:
    known = [each.time.seconds for each in left if each.time is not None]
    unknown = len(left) - len(known)
    runs = " and ".join(dict.fromkeys(each.job.config.runs_dir for each in left))
    if not known:
        return f"time: unknown; no similar job has finished in {runs} yet"
    about = "at least" if unknown else "about"
    line = f"time: {about} {format_duration(sum(known))} of training"
    if slots is None or slots > 1:
        line += f", {_at_once(known, slots, about)}"
    if slots is None and sum(known) < SHORT * len(known):
        line += "; each job also takes some seconds to start its process"
    if unknown:
        line += f"; unknown for {pluralize(unknown, 'job')}, with no similar job in {runs}"
    return line


def _compile_lines(left: Sequence[PlannedJob]) -> list[str]:
    """Whether torch.compile saves more time than it costs, for the jobs for which it is known."""
    known = [each.compiling for each in left if each.compiling is not None]
    if not known:
        return []
    compiled, eager = sum(each.compiled for each in known), sum(each.eager for each in known)
    return [
        f"compile=true {'pays off' if compiled < eager else 'does not pay off'}:"
        f" {pluralize(len(known), 'job')} in about {format_duration(compiled)} with it,"
        f" about {format_duration(eager)} without"
    ]


def _at_once(known: Sequence[float], slots: int | None, about: str) -> str:
    if slots is None:
        return "divided by as many jobs as the scheduler runs at once"
    return f"{about} {format_duration(parallel_seconds(known, slots))} in {slots} slots"


def _disk_line(left: Sequence[PlannedJob], cached: int) -> str:
    disks = [each.disk for each in left if each.disk is not None]
    alone = sum(disk.is_weights_alone for disk in disks)
    size = format_bytes(sum(disk.size for disk in disks))
    line = f"disk: {'at least' if alone else 'about'} {size}"
    if cached:
        line += f", and {format_bytes(cached)} of teacher caches unless they exist"
    if alone:
        line += f"; only the weights of {pluralize(alone, 'job')} are counted"
    return line
