"""Runs the jobs of a sweep, each in its own process; by default, continues after failures."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_bench.jobs.job import Job, write_jobs, write_sweep
from kd_bench.jobs.protocol import INTERRUPTED, LOCKED_ELSEWHERE
from kd_bench.jobs.status import teacher_failed
from kd_bench.results.record import Record
from kd_bench.results.run_folder import CONSOLE, ERROR, read_error, write_error
from kd_bench.sweep.display import SweepDisplay
from kd_bench.sweep.executors.base import Process, Slot
from kd_bench.sweep.retry import DEFAULT, RetryPolicy
from kd_bench.utils.errors import DamagedError, UserError, failure_reason
from kd_bench.utils.lock import lock_owner

POLL_SECONDS = 0.05  # between two polls of the processes of jobs
LOOK_SECONDS = 1.0  # between two checks of the files of pending jobs, if no job ends
GRACE_SECONDS = 10.0  # for an interrupted job to end by itself


@dataclass
class Running:
    """A job and its process."""

    job: Job
    process: Process
    since: float = field(default_factory=time.monotonic)


class Sweep:
    """Runs jobs in slots until none is left.

    Args:
        jobs: teachers before their students.
        file: the sweep's file, with `jobs` in this order.
        slots: where they run.
        display: shows progress and results.
        policy: what to do when a job fails.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        file: Path,
        slots: Sequence[Slot],
        display: SweepDisplay,
        policy: RetryPolicy,
    ):
        self.jobs, self.file, self.display, self.policy = list(jobs), file, display, policy
        self.numbers = {job.folder: number for number, job in enumerate(jobs)}  # in the file
        self.free = list(slots)
        self.pending = list(jobs)
        self.running: dict[Slot, Running] = {}
        self.records: dict[str, Record] = {}  # folder -> record of a job that is done
        self.failed: dict[str, str] = {}  # folder -> reason
        self.retried: Counter[str] = Counter()  # folder -> number of retries
        self.not_before: dict[str, float] = {}  # folder of a job run elsewhere -> next check
        self.look_again = 0.0  # time of the next check of the pending jobs' files
        self.interruptions = 0  # signals received to end the sweep

    def run(self) -> None:
        """Run all jobs; on SIGINT, SIGTERM or SIGHUP, stop the running ones."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as set by nohup
            numbers.append(signal.SIGHUP)
        handlers = {number: signal.signal(number, self._interrupt) for number in numbers}
        slots = len(self.free)
        try:
            while (self.pending or self.running) and not (self.interruptions or self.stopped):
                has_ended = self._collect()
                if not self.stopped and (has_ended or time.monotonic() >= self.look_again):
                    self._start_ready()
                    self.look_again = time.monotonic() + LOOK_SECONDS
                self._show_running(slots)
                time.sleep(POLL_SECONDS)
        finally:
            if self.running:  # interrupted, stopped by a failure, or a slot raised an error
                self._stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @property
    def stopped(self) -> bool:
        """Whether a failure has ended the sweep."""
        return bool(self.failed) and self.policy.stops

    def _interrupt(self, _number: int, _frame: object) -> None:
        # Only counted: an exception raised here, after a process has started and before it is in
        # `running`, would leave that process behind.
        self.interruptions += 1

    def _show_running(self, slots: int) -> None:
        running = [(slot.name, running.job) for slot, running in self.running.items()]
        self.display.update(running, self.pending, len(self.failed), slots)

    def _start_ready(self) -> None:
        for job in list(self.pending):
            if record := job.find_record():
                self.pending.remove(job)
                self.records[job.folder] = record
                self.display.done_already(job, record)
            elif reason := teacher_failed(job, self.failed):
                self.pending.remove(job)
                self.failed[job.folder] = reason
            elif self.free and self._is_ready(job):
                self.pending.remove(job)
                self._start(job)

    def _is_ready(self, job: Job) -> bool:
        # A teacher whose files have since disappeared counts as done: the job then fails with a
        # message about it.
        teachers = {teacher.folder for teacher in job.teachers}
        waits = (teachers & self.numbers.keys()) - self.records.keys()
        return not (waits or self._is_elsewhere(job))

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether a job that was locked is still run by another process; checked once a second."""
        if job.folder not in self.not_before:
            return False
        if time.monotonic() >= self.not_before[job.folder]:
            if not _is_locked(job):
                del self.not_before[job.folder]
                return False
            self.not_before[job.folder] = time.monotonic() + 1.0
        return True

    def _start(self, job: Job) -> None:
        slot = self.free[0]
        try:
            self._prepare(job)
            process = slot.start(self.file, self.numbers[job.folder], job.path / CONSOLE)
        except OSError as error:  # such as a full disk
            self._failed(job, failure_reason(error), lost=False)
        else:
            self.free.remove(slot)
            self.running[slot] = Running(job, process)

    def _prepare(self, job: Job) -> None:
        """Prepare the files of a job before it starts.

        Raises:
            OSError: they cannot be written.
        """
        try:
            job.read_record()
        except DamagedError as error:
            self.display.damaged(job, str(error))
        except UserError:  # such as a record of a later version: the job fails with that message
            pass
        for folder in (job.path, self.file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (job.path / ERROR).unlink(missing_ok=True)
        if not self.file.exists():  # it has disappeared
            write_sweep(self.file, self.jobs)

    def _collect(self) -> bool:
        """Remove ended jobs from their slots; return whether there were any."""
        ended = [
            (slot, code)
            for slot, running in self.running.items()
            if (code := running.process.poll()) is not None
        ]
        for slot, code in ended:
            self.free.insert(0, slot)
            self._ended(self.running.pop(slot), code)
        return bool(ended)

    def _ended(self, running: Running, code: int) -> None:
        job = running.job
        if record := job.find_record():
            self.records[job.folder] = record
            self.display.done(job, record, time.monotonic() - running.since)
        elif code == LOCKED_ELSEWHERE:
            self.not_before[job.folder] = time.monotonic() + 1.0
            self.pending.append(job)
            self.display.elsewhere(job)
        else:
            self._failed(job, _reason(running, code), lost=code < 0)

    def _failed(self, job: Job, reason: str, lost: bool) -> None:
        tried = self.retried[job.folder]
        if self.policy.should_retry(reason, lost=lost, tried=tried):
            self.retried[job.folder] += 1
            self.pending.append(job)
            self.display.retrying(job, reason, tried + 1, self.policy.retries)
            return
        self.failed[job.folder] = reason
        waiting = [
            other.label
            for other in self.pending
            if any(ancestor.folder == job.folder for ancestor in other.ancestors())
        ]
        self.display.failed(job, reason, waiting)

    def _stop(self) -> None:
        """Interrupt the jobs, then kill those still running; at once on a second interruption."""
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


def _is_locked(job: Job) -> bool:
    try:
        return lock_owner(job.path) is not None
    except OSError:  # such as a full disk; the lock is checked again later
        return True


def _reason(running: Running, code: int) -> str:
    """Why a job ended without a result, in one line; written to its folder if it is not there."""
    folder = running.job.path
    if (reason := read_error(folder)) is None:
        reason = running.process.reason() or _described(code)
        write_error(folder, reason)
    return reason


def _described(code: int) -> str:
    if code == INTERRUPTED:
        return "interrupted by a signal that the sweep did not send"
    if code >= 0:
        return f"ended with exit code {code} and no result"
    known = {each.value: each.name for each in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}"


def run_sweep(
    jobs: Sequence[Job],
    name: str,
    slots: Sequence[Slot],
    display: SweepDisplay,
    policy: RetryPolicy = DEFAULT,
    *,
    with_table: bool = True,
) -> int:
    """Run jobs, then print their table if `with_table`.

    Returns:
        The exit code: 0, 1 if jobs failed, 130 after an interruption.
    """
    sweep = Sweep(jobs, write_jobs(jobs, name), slots, display, policy)
    with display:
        sweep.run()
    if with_table:
        display.table([job for job in jobs if job.is_requested], sweep.records, sweep.failed)
    if sweep.failed:
        display.failures([job for job in jobs if job.folder in sweep.failed], sweep.failed)
    if sweep.interruptions:
        display.interrupted()
        return INTERRUPTED
    if sweep.stopped:
        display.stopped()
    return 1 if sweep.failed else 0
