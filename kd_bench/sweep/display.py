"""Shows a sweep while it runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kd_bench.jobs.job import Job
from kd_bench.jobs.status import (
    PENDING,
    RUNNING,
    JobProgress,
    JobStatus,
    progress_text,
    read_progress,
)
from kd_bench.results.record import Failure, Record
from kd_bench.results.run_folder import CONSOLE
from kd_bench.results.study import find_study
from kd_bench.sweep import eta
from kd_bench.sweep.eta import ThroughputHistory
from kd_bench.utils.errors import DamagedError
from kd_bench.utils.text.escape import printable
from kd_bench.utils.text.formatting import pluralize

READ_SECONDS = 0.5  # minimum time between two reads of the running jobs' files


def console() -> Console:
    """A console for standard output that wraps lines only in a terminal."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def accuracy_text(record: Record) -> str:
    """A record's accuracy as short text: 93.4 % after 20 epochs, 3.1 s."""
    epochs = pluralize(record.config.recipe.epochs, "epoch")
    return f"{record.accuracy.last:.2f} % after {epochs}, {record.seconds:.1f} s"


class SweepDisplay:
    """Prints a line for every job that ends; in a terminal, also a live view of the slots."""

    def __init__(self, total: int):
        self.console = console()
        self.total = total
        self._throughputs = ThroughputHistory()
        self._read_again = 0.0
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> SweepDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def message(self, text: str) -> None:
        """Print a line."""
        self.console.print(printable(text))

    def done(self, job: Job, record: Record, seconds: float) -> None:
        """A job has finished, after this many seconds in its slot."""
        self._throughputs.add_record(record, seconds)
        self.message(f"{job.label}: done: {accuracy_text(record)}")

    def done_already(self, job: Job, record: Record) -> None:
        """A job was finished before the sweep or by another process."""
        self._throughputs.add_record(record)
        self.message(f"{job.label}: already done, nothing to train")

    def damaged(self, job: Job, reason: str) -> None:
        """A job starts again because its record is damaged."""
        self.message(f"{job.label}: running again, because {reason}")

    def elsewhere(self, job: Job) -> None:
        """Another process is running a job."""
        self.message(f"{job.label}: already being trained by another process; waiting for it")

    def failed(self, job: Job, reason: str, waiting: Sequence[str]) -> None:
        """A job ended without a result; `waiting` are the jobs that depend on it."""
        dependents = f"; jobs that depend on it: {', '.join(waiting)}" if waiting else ""
        self.message(f"{job.label}: FAILED: {reason}; see {job.path / CONSOLE}{dependents}")

    def retrying(self, job: Job, reason: str, number: int, most: int) -> None:
        """A job that failed is retried."""
        self.message(f"{job.label}: {reason}; retry {number} of {most}")

    def stopped(self) -> None:
        """A failure ended the sweep because of on_error=stop."""
        self.message("stopped after a failure (on_error=stop); the same command resumes the sweep")

    def interrupted(self) -> None:
        """A signal ended the sweep."""
        self.message("interrupted; the same command resumes the sweep")

    def failures(self, jobs: Sequence[Job], reasons: Mapping[str, str]) -> None:
        """List all failures; `reasons` are by folder."""
        self.message(f"{len(jobs)} of {pluralize(self.total, 'job')} failed:")
        for job in jobs:
            self.message(f"  {job.label}: {reasons[job.folder]}; see {job.path}")

    def table(
        self, jobs: Sequence[Job], records: Mapping[str, Record], failed: Mapping[str, str]
    ) -> None:
        """Print the results of jobs; `records` and the reasons in `failed` are by folder."""
        # pandas and scipy take a second to import
        from kd_bench.results.rendering.tables import render_records

        studies = {job.folder: find_study(job.path) for job in jobs}
        if done := [
            replace(records[job.folder], study=studies[job.folder])
            for job in jobs
            if job.folder in records
        ]:
            failures = [
                Failure(
                    job.folder,
                    failed[job.folder],
                    job.identity,
                    job.config,
                    job.changed,
                    studies[job.folder],
                )
                for job in jobs
                if job.folder in failed
            ]
            self.console.print(render_records(done, failures))

    def update(
        self,
        running: Sequence[tuple[str, Job]],
        pending: Sequence[Job],
        failed: int,
        slots: int,
    ) -> None:
        """Show each slot's job; may be called often, because it reads files only so often.

        Args:
            running: name and job of each slot in use.
            pending: jobs that have not started.
            failed: number of failed jobs.
            slots: number of slots.
        """
        if not self.console.is_terminal or time.monotonic() < self._read_again:
            return
        self._read_again = time.monotonic() + READ_SECONDS
        now = [(job, JobStatus(RUNNING, progress=_progress(job))) for _, job in running]
        grid = Table.grid(padding=(0, 2))
        for (slot, _), (job, status) in zip(running, now, strict=True):
            grid.add_row(slot, printable(job.label), progress_text(job, status))
        done = self.total - len(pending) - len(running) - failed
        counts = f"{done} done, {len(running)} running, {len(pending)} pending, {failed} failed"
        unfinished = now + [(job, JobStatus(PENDING)) for job in pending]
        grid.add_row("", counts, eta.time_left_text(unfinished, self._throughputs, slots))
        self._live.update(grid)


def _progress(job: Job) -> JobProgress | None:
    """A job's progress; None if its files are damaged, since each epoch rewrites them."""
    try:
        return read_progress(job.path)
    except DamagedError:
        return None
