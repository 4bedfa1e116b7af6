"""Many jobs on one machine: frozen first, a process for each, and on past those that fail."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_bench.jobs.job import Job, write_jobs
from kd_bench.sweep.display import SweepDisplay
from kd_bench.sweep.executors.local import Process, Slot
from kd_bench.sweep.retry import DEFAULT, RetryPolicy
from kd_bench.utils.files import atomic_write, ensure_writable_dir
from kd_bench.utils.lock import LOCKED_ELSEWHERE, lock_owner

POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0  # that an interrupted job has to end by itself


@dataclass
class Running:
    """A job's process in its slot."""

    job: Job
    process: Process
    since: float = field(default_factory=time.monotonic)


class Sweep:
    """Runs frozen jobs in slots until none is left.

    Args:
        jobs: teachers before those who wait for them.
        frozen: the file in which `jobs` stand, in this order.
        slots: places to run in.
        show: is told what happens.
        policy: what is done about jobs that fail.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        frozen: Path,
        slots: Sequence[Slot],
        show: SweepDisplay,
        policy: RetryPolicy,
    ):
        self.jobs, self.frozen, self.show, self.policy = list(jobs), frozen, show, policy
        self.free = list(slots)
        self.pending = list(jobs)
        self.running: dict[Slot, Running] = {}
        self.failed: dict[str, str] = {}  # folder -> reason
        self.tried_again: Counter[str] = Counter()  # folder -> how often
        self.not_before: dict[str, float] = {}  # jobs that another process works at
        self.interruptions = 0  # signals that asked the sweep to end

    def run(self) -> None:
        """Run all jobs. After SIGINT, SIGTERM or SIGHUP, stop them and leave no process behind."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # or nohup would be of no use
            numbers.append(signal.SIGHUP)
        handlers = {number: signal.signal(number, self._interrupt) for number in numbers}
        places = len(self.free)
        try:
            while (self.pending or self.running) and not (self.interruptions or self.stopped):
                self._collect()
                if not self.stopped:
                    self._start_ready()
                self.show.update(self.running, self.pending, self.failed, places)
                time.sleep(POLL_SECONDS)
        finally:
            if self.running:  # interrupted, or a place that takes no more jobs
                self._stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @property
    def stopped(self) -> bool:
        """Whether a failure ends the sweep."""
        return bool(self.failed) and self.policy.stops

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
        return teacher_is_there and not self._is_elsewhere(job)

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether a job that was found locked still is; looked at once a second."""
        if job.folder not in self.not_before:
            return False
        if time.monotonic() >= self.not_before[job.folder]:
            if lock_owner(job.path) is None:
                del self.not_before[job.folder]
                return False
            self.not_before[job.folder] = time.monotonic() + 1.0
        return True

    def _start(self, job: Job) -> None:
        slot = self.free.pop(0)
        ensure_writable_dir(job.path)
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
            self._ended(running, code)

    def _ended(self, running: Running, code: int) -> None:
        job = running.job
        if job.is_done:
            self.show.done(job, time.monotonic() - running.since)
        elif code == LOCKED_ELSEWHERE:
            self.not_before[job.folder] = time.monotonic() + 1.0
            self.pending.append(job)
            self.show.elsewhere(job)
        else:
            self._failed(job, self._reason(running, code), lost=code < 0)

    def _failed(self, job: Job, reason: str, lost: bool) -> None:
        tried = self.tried_again[job.folder]
        if self.policy.should_retry(reason, lost=lost, tried=tried):
            self.tried_again[job.folder] += 1
            self.pending.append(job)
            self.show.tried_again(job, reason, tried + 1, self.policy.retries)
            return
        self.failed[job.folder] = reason
        waiting = [other.label for other in self.pending if other.after == job.folder]
        self.show.failed(job, reason, waiting)

    def _reason(self, running: Running, code: int) -> str:
        job = running.job
        if (told := running.process.reason()) is not None:
            reason = told
        elif code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        elif (job.path / "error.txt").exists():
            return (job.path / "error.txt").read_text().partition("\n")[0]
        else:
            reason = f"ended with exit code {code} and no result"
        atomic_write(job.path / "error.txt", reason + "\n")
        return reason

    def _stop(self) -> None:
        """Ask the jobs to end; make those that do not, at once if asked a second time."""
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGTERM, 2.0)):
            if self.interruptions <= 1:
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
            and self.interruptions <= 1
            and any(running.process.poll() is None for running in self.running.values())
        ):
            time.sleep(POLL_SECONDS)


def run_sweep(
    jobs: Sequence[Job],
    name: str,
    slots: Sequence[Slot],
    show: SweepDisplay,
    policy: RetryPolicy = DEFAULT,
) -> int:
    """Run frozen jobs, then print their table.

    Returns:
        The exit code: 0, 1 where jobs failed, 130 after an interruption.
    """
    sweep = Sweep(jobs, write_jobs(jobs, name), slots, show, policy)
    with show:
        sweep.run()
    show.table([job for job in jobs if job.asked], sweep.failed)
    if sweep.failed:
        show.failures([job for job in jobs if job.folder in sweep.failed], sweep.failed)
    if sweep.interruptions:
        show.interrupted()
        return 130
    if sweep.stopped:
        show.stopped()
    return 1 if sweep.failed else 0
