"""Many jobs on one machine: frozen first, a process for each, and on past those that fail."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kd_bench import build, records
from kd_bench.display import SweepDisplay
from kd_bench.run import LOCKED_ELSEWHERE, label
from kd_bench.slots import Process, Slot

POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0  # that an interrupted job has to end by itself


@dataclass
class Job:
    """One frozen job: all that it needs, so that editing conf/ changes nothing any more."""

    config: dict[str, Any]
    changed: dict[str, Any]
    identity: dict[str, Any]
    folder: str  # below runs_dir
    label: str
    after: str | None  # the folder of its teacher
    asked: bool  # False for a teacher that is there for others' sake

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.config["runs_dir"]) / self.folder

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        return (self.path / "result.json").exists()


def freeze(composed: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Job]:
    """Check all jobs, merge twins, and put before each job the job that makes its teacher.

    Args:
        composed: configurations, each with what was changed in it.

    Raises:
        UserError: for the first job that does not fit, before anything is trained.
    """
    build.check_all(config for config, _ in composed)
    jobs: dict[str, Job] = {}
    for config, changed in composed:
        after = None
        if (teacher := build.teacher_job(config)) is not None:
            made = _job(teacher, build.teacher_changes(changed))
            after = jobs.setdefault(made.folder, made).folder
        asked = _job(config, changed, after)
        jobs.setdefault(asked.folder, asked).asked = True
    # A stable sort: teachers first, for others wait for them; else as they were asked for.
    waited_for = {job.after for job in jobs.values()}
    return sorted(jobs.values(), key=lambda job: job.folder not in waited_for)


def _job(config: Mapping[str, Any], changed: Mapping[str, Any], after: str | None = None) -> Job:
    identity = build.identity(config)
    folder = records.folder_name(identity, config["seed"])
    name = label(config, changed)
    return Job(dict(config), dict(changed), identity, folder, name, after, asked=False)


def write_frozen(jobs: Sequence[Job], name: str) -> Path:
    """Write the jobs to runs/.sweeps/<name>.jsonl, a line each."""
    folder = Path(jobs[0].config["runs_dir"]) / ".sweeps"
    records.make_folder(folder)
    path = folder / f"{name}.jsonl"
    records.write_whole(path, "".join(json.dumps(asdict(job)) + "\n" for job in jobs))
    return path


@dataclass
class Running:
    """A job's process in its slot."""

    job: Job
    process: Process


class Sweep:
    """Runs frozen jobs in slots until none is left.

    Args:
        jobs: teachers before those who wait for them.
        frozen: the file in which `jobs` stand, in this order.
        slots: places to run in.
        show: is told what happens.
    """

    def __init__(
        self, jobs: Sequence[Job], frozen: Path, slots: Sequence[Slot], show: SweepDisplay
    ):
        self.jobs, self.frozen, self.show = list(jobs), frozen, show
        self.free = list(slots)
        self.pending = list(jobs)
        self.running: dict[Slot, Running] = {}
        self.failed: dict[str, str] = {}  # folder -> reason
        self.not_before: dict[str, float] = {}  # jobs that another process works at
        self.interruptions = 0  # signals that asked the sweep to end

    def run(self) -> None:
        """Run all jobs. After SIGINT, SIGTERM or SIGHUP, stop them and leave no process behind."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            while (self.pending or self.running) and not self.interruptions:
                self._collect()
                self._start_ready()
                self.show.update(self.running, self.pending, self.failed)
                time.sleep(POLL_SECONDS)
            if self.running:
                self._stop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: object) -> None:
        # Only counted: an exception here could come between a process's start and its entry
        # among the running, and leave it behind.
        self.interruptions += 1

    def _start_ready(self) -> None:
        for job in list(self.pending):
            if job.is_done:
                self.pending.remove(job)
                self.show.done_already(job)
            elif job.after in self.failed:
                self.pending.remove(job)
                self.failed[job.folder] = f"its teacher failed: {job.after}"
            elif self.free and self._is_ready(job):
                self.pending.remove(job)
                self._start(job)

    def _is_ready(self, job: Job) -> bool:
        teacher_is_there = job.after is None or (
            (Path(job.config["runs_dir"]) / job.after / "result.json").exists()
        )
        return teacher_is_there and time.monotonic() >= self.not_before.get(job.folder, 0)

    def _start(self, job: Job) -> None:
        slot = self.free.pop(0)
        records.make_folder(job.path)
        (job.path / "error.txt").unlink(missing_ok=True)
        number = next(i for i, other in enumerate(self.jobs) if other.folder == job.folder)
        process = slot.start(self.frozen, number, job.path / "console.log")
        self.running[slot] = Running(job, process)

    def _collect(self) -> None:
        for slot, running in list(self.running.items()):
            if (code := running.process.poll()) is None:
                continue
            del self.running[slot]
            self.free.insert(0, slot)
            self._ended(running.job, code)

    def _ended(self, job: Job, code: int) -> None:
        if job.is_done:
            self.show.done(job)
        elif code == LOCKED_ELSEWHERE:
            self.not_before[job.folder] = time.monotonic() + 1.0
            self.pending.append(job)
            self.show.elsewhere(job)
        else:
            self.failed[job.folder] = self._reason(job, code)
            waiting = [other.label for other in self.pending if other.after == job.folder]
            self.show.failed(job, self.failed[job.folder], waiting)

    def _reason(self, job: Job, code: int) -> str:
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        elif (job.path / "error.txt").exists():
            return (job.path / "error.txt").read_text().partition("\n")[0]
        else:
            reason = f"ended with exit code {code} and no result"
        records.write_whole(job.path / "error.txt", reason + "\n")
        return reason

    def _stop(self) -> None:
        """Ask the jobs to end; make those that do not, at once if asked a second time."""
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGTERM, 2.0)):
            if self.interruptions == 1:
                self._signal(number)
                self._wait(seconds)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for running in self.running.values():
            running.process.signal(number)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (
            time.monotonic() < end
            and self.interruptions == 1
            and any(running.process.poll() is None for running in self.running.values())
        ):
            time.sleep(POLL_SECONDS)


def run_sweep(jobs: Sequence[Job], name: str, slots: Sequence[Slot], show: SweepDisplay) -> int:
    """Run frozen jobs, then print their table.

    Returns:
        The exit code: 0, 1 where jobs failed, 130 after an interruption.
    """
    sweep = Sweep(jobs, write_frozen(jobs, name), slots, show)
    with show:
        sweep.run()
    show.table([job for job in jobs if job.asked], sweep.failed)
    if sweep.failed:
        show.failures([job for job in jobs if job.folder in sweep.failed], sweep.failed)
    if sweep.interruptions:
        show.interrupted()
        return 130
    return 1 if sweep.failed else 0
