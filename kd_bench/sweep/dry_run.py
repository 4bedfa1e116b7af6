"""What a sweep would do: its jobs, what is done, and the time and disk that the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_bench.config.identity import folder_name
from kd_bench.config.schema import Speed
from kd_bench.jobs import instantiate, resolve
from kd_bench.jobs.job import Job
from kd_bench.jobs.status import DONE, FAILED, RUNNING, JobStatus, job_statuses, progress_text
from kd_bench.results.store import find_records, folder_size
from kd_bench.sweep.display import console
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
from kd_bench.utils import formatting


@dataclass(frozen=True)
class Disk:
    """Bytes that a finished job takes."""

    size: int
    is_weights_alone: bool  # no like job has finished: the rest of its files is not counted


@dataclass(frozen=True)
class Compiling:
    """Seconds that a job takes with compile=true and without, told from like jobs of both kinds."""

    compiled: float
    eager: float


@dataclass(frozen=True)
class PlannedJob:
    """A job, what its folder tells, and what it still takes."""

    job: Job
    state: JobStatus
    time: Estimate | None  # None: nothing is known to go by
    disk: Disk | None  # None where it is done
    compiling: Compiling | None = None  # None where it is not known, or decided

    @property
    def line(self) -> str:
        """The job in a line: digits resnet20-resnet8 st seed 0: to do, about 4 s."""
        return f"{self.job.label}: {self._what()}"

    def _what(self) -> str:
        state, begun = self.state, self.state.progress
        if state.kind == DONE:
            return f"done: {state.record['accuracy']['last']:.2f} %"
        if state.kind == RUNNING:
            return f"running, {state.owner}: {progress_text(self.job, state)}"
        begins = f" from epoch {begun.epoch + 1} of {self.job.epochs}" if begun else ""
        failed = f"; failed before: {state.reason}" if state.kind == FAILED else ""
        return f"to do{begins}, {self._time()}{failed}"

    def _time(self) -> str:
        if self.time is None:
            return "time unknown"
        return f"{'roughly' if self.time.is_rough else 'about'} {formatting.format_duration(self.time.seconds)}"


def print_plan(jobs: Sequence[Job], places: int | None) -> None:
    """Print the plan of some jobs.

    Args:
        jobs: as from `sweep.freeze`.
        places: in which jobs run at once; None where a scheduler has the say.
    """
    found, to = plan_jobs(jobs), console()
    for each in found:
        to.print(each.line, markup=False)
    for line in totals(found, places):
        to.print(line, markup=False)


def plan_jobs(jobs: Sequence[Job]) -> list[PlannedJob]:
    """What the runs folder tells of each job, and of jobs like it."""
    now, experience = job_statuses(jobs), History(jobs)
    for job in jobs:
        experience.add_unfinished(job, now[job.folder])
    return [
        PlannedJob(
            job,
            now[job.folder],
            remaining(job, now[job.folder], experience.paces, experience.images(job)),
            None if now[job.folder].kind == DONE else experience.disk(job),
            experience.compiling(job) if now[job.folder].progress is None else None,
        )
        for job in jobs
    ]


# Experience


class History:
    """What the finished jobs of a runs folder tell: how long like jobs take, and how much disk."""

    def __init__(self, jobs: Sequence[Job]):
        self.paces = ThroughputHistory()
        self._sizes: dict[SimilarityKey, int] = {}
        self._compiling: dict[str, Compiling | None] = {}  # by folder, but for the seed
        config = jobs[0].config
        device = config["device"]
        if device == "auto":  # what was asked for by name may be another machine's
            device = choose_device(device).type
        for dataset in {job.config["dataset"]["name"] for job in jobs}:
            if (folder := Path(config["runs_dir"]) / dataset).is_dir():
                self._add_records(folder, device)

    def _add_records(self, root: Path, device: str) -> None:
        for folder, record in find_records(root):
            recipe, size = record["config"]["recipe"]["name"], folder_size(folder)
            for kind in similarity_keys(record["folder"], record["identity"], recipe):
                # The largest, for what is no longer needed may have been removed from others.
                self._sizes[kind] = max(size, self._sizes.get(kind, 0))
            if record["device"] == device:
                self.paces.add_record(record)

    def add_unfinished(self, job: Job, now: JobStatus) -> None:
        """What a job that began tells of others like it."""
        if now.progress is not None:
            pace = Throughput(now.progress.seconds_per_epoch, images=self.images(job))
            self.paces.add(self._kinds(job), pace)

    def disk(self, job: Job) -> Disk:
        """What a job's folder will take."""
        for kind in self._kinds(job):
            if kind in self._sizes:
                return Disk(self._sizes[kind], is_weights_alone=False)
        return Disk(weights_size(job), is_weights_alone=True)

    def compiling(self, job: Job) -> Compiling | None:
        """What it takes compiled and not; None unless jobs that differ in little else ran so."""
        settings = job.folder.rpartition("/")[0]
        if settings not in self._compiling:
            self._compiling[settings] = self._compiling_of(job)
        return self._compiling[settings]

    def _compiling_of(self, job: Job) -> Compiling | None:
        if job.config["speed"] != Speed.repro.value:  # reference never is, fast chooses for itself
            return None
        both = [self._pace(job, compiled) for compiled in (True, False)]
        if any(pace is None or pace.is_rough for pace in both):
            return None
        return Compiling(*(pace.seconds(job.epochs) for pace in both))

    def _pace(self, job: Job, compiled: bool) -> Throughput | None:
        identity = resolve.identity({**job.config, "compile": compiled})
        folder = folder_name(identity, job.config["seed"])
        return self.paces.of(similarity_keys(folder, identity, job.config["recipe"]["name"]))

    def images(self, job: Job) -> int:
        """How many images a job trains on."""
        return instantiate.describe_dataset(job.config["dataset"]).train_size

    def _kinds(self, job: Job) -> list[SimilarityKey]:
        return similarity_keys(job.folder, job.identity, job.config["recipe"]["name"])


def weights_size(job: Job) -> int:
    """Bytes of a job's student."""
    network, _ = instantiate.meta_network(
        job.config["model"], instantiate.describe_dataset(job.config["dataset"])
    )
    tensors = network.net.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Totals

SHORT = 60.0  # seconds of training; below, a scheduler's start of a process is felt


def totals(found: Sequence[PlannedJob], places: int | None) -> list[str]:
    """How many jobs are done and left, and what those left take of time, disk and teachers."""
    kinds = Counter(each.state.kind for each in found)
    left = [each for each in found if each.state.kind != DONE]
    to_do = len(left) - kinds[RUNNING]
    failed = f" ({kinds[FAILED]} failed before)" if kinds[FAILED] else ""
    counts = (
        f"{formatting.pluralize(len(found), 'job')}: {kinds[DONE]} done, {kinds[RUNNING]} running"
    )
    lines = [f"{counts}, {to_do} to do{failed}"]
    if left:
        asked = teacher_costs([each.job for each in left])
        tables = sum(each.size for each in asked if each.is_table)
        lines += [_time_line(left, places), _disk_line(left, tables), *_compile_lines(left)]
        lines += [each.line for each in asked]
    return lines


def _time_line(left: Sequence[PlannedJob], places: int | None) -> str:
    known = [each.time.seconds for each in left if each.time is not None]
    unknown = len(left) - len(known)
    runs = left[0].job.config["runs_dir"]
    if not known:
        return f"time: unknown; nothing like these jobs has run in {runs} yet"
    about = "at least" if unknown else "about"
    line = f"time: {about} {formatting.format_duration(sum(known))} of training"
    if places is None or places > 1:
        line += f", {_at_once(known, places, about)}"
    if places is None and sum(known) < SHORT * len(known):
        line += "; to start its process takes each some seconds more"
    if unknown:
        line += (
            f"; unknown for {formatting.pluralize(unknown, 'job')}, like none that ran in {runs}"
        )
    return line


def _compile_lines(left: Sequence[PlannedJob]) -> list[str]:
    """Whether torch.compile saves more than it takes, where that is known of any job."""
    known = [each.compiling for each in left if each.compiling is not None]
    if not known:
        return []
    compiled, eager = sum(each.compiled for each in known), sum(each.eager for each in known)
    return [
        f"compile=true {'pays' if compiled < eager else 'does not pay'}: of"
        f" {formatting.pluralize(len(known), 'job')} about {formatting.format_duration(compiled)} with it,"
        f" about {formatting.format_duration(eager)} without"
    ]


def _at_once(known: Sequence[float], places: int | None, about: str) -> str:
    if places is None:
        return "divided by as many jobs as the scheduler runs at once"
    return (
        f"{about} {formatting.format_duration(parallel_seconds(known, places))} in {places} places"
    )


def _disk_line(left: Sequence[PlannedJob], tables: int) -> str:
    size = formatting.format_bytes(sum(each.disk.size for each in left))
    alone = sum(each.disk.is_weights_alone for each in left)
    line = f"disk: {'at least' if alone else 'about'} {size}"
    if tables:
        line += f", and {formatting.format_bytes(tables)} of view tables unless they are there"
    if alone:
        line += f"; of {formatting.pluralize(alone, 'job')} the weights alone are counted"
    return line
