"""What a person sees while jobs run: live where the output is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kd_bench.jobs.status import PENDING, RUNNING, JobStatus, progress_text, read_progress
from kd_bench.results.run_folder import read_result
from kd_bench.sweep import eta
from kd_bench.sweep.eta import ThroughputHistory

if TYPE_CHECKING:
    from kd_bench.jobs.job import Job
    from kd_bench.sweep.executors.local import Slot
    from kd_bench.sweep.scheduler import Running

LOOK_SECONDS = 0.5  # between two looks at the files of the running jobs


def console() -> Console:
    """Where people read; keeps lines whole where no terminal limits their width."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, soft_wrap=True)


def accuracy_text(record: Mapping[str, Any]) -> str:
    """A record's number in a few words: 93.4 % after 20 epochs, 3.1 s."""
    epochs = record["config"]["recipe"]["epochs"]
    last, seconds = record["accuracy"]["last"], record["seconds"]
    return f"{last:.2f} % after {epochs} epochs, {seconds:.1f} s"


class SweepDisplay:
    """A line for every job that ends, and below them a live view of the slots."""

    def __init__(self, total: int):
        self.console = console()
        self.total = total
        self._paces = ThroughputHistory()
        self._look_again = 0.0
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> SweepDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def done(self, job: Job, seconds: float) -> None:
        """A job has its result, after so many seconds in its slot."""
        record = read_result(job.path)
        self._paces.add_record(record, seconds)
        self.say(f"{job.label}: done: {accuracy_text(record)}")

    def done_already(self, job: Job) -> None:
        """A job had its result before."""
        self._paces.add_record(read_result(job.path))
        self.say(f"{job.label}: done already, nothing to train")

    def elsewhere(self, job: Job) -> None:
        """Another process works at a job."""
        self.say(f"{job.label}: being trained by another process, waiting for it")

    def failed(self, job: Job, reason: str, waiting: Sequence[str]) -> None:
        """A job ended without a result."""
        for_whom = f"; waiting for it: {', '.join(waiting)}" if waiting else ""
        self.say(f"{job.label}: FAILED: {reason}; see {job.path / 'console.log'}{for_whom}")

    def tried_again(self, job: Job, reason: str, number: int, most: int) -> None:
        """A job that failed gets another chance."""
        self.say(f"{job.label}: {reason}; trying again, {number} of {most}")

    def stopped(self) -> None:
        """A failure ended the sweep, as it was told to."""
        self.say("stopped after a failure (on_error=stop); the same command goes on from here")

    def interrupted(self) -> None:
        """The sweep was asked to end."""
        self.say("interrupted; the same command again goes on from here")

    def failures(self, jobs: Sequence[Job], reasons: Mapping[str, str]) -> None:
        """All that failed, at the end."""
        self.say(f"{len(jobs)} of {self.total} jobs failed:")
        for job in jobs:
            self.say(f"  {job.label}: {reasons[job.folder]}; see {job.path}")

    def table(self, jobs: Sequence[Job], failed: Mapping[str, str]) -> None:
        """The results of a sweep's jobs, as far as they are there."""
        from kd_bench.results import (
            render,  # pandas and scipy cost a second; only now are they needed
        )

        found = [record for job in jobs if (record := read_result(job.path))]
        if found:
            failures = [
                {
                    "folder": job.folder,
                    "reason": failed[job.folder],
                    "identity": job.identity,
                    "config": job.config,
                    "changed": job.changed,
                }
                for job in jobs
                if job.folder in failed
            ]
            self.say(render.render(found, failures=failures, format="terminal"))

    def update(
        self,
        running: Mapping[Slot, Running],
        pending: Sequence[Job],
        failed: Mapping[str, str],
        places: int,
    ) -> None:
        """Show what each slot does; called often, it looks at the jobs' files now and then."""
        if not self.console.is_terminal or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + LOOK_SECONDS
        now = {slot: _running(at_work.job) for slot, at_work in running.items()}
        grid = Table.grid(padding=(0, 2))
        for slot, state in now.items():
            job = running[slot].job
            grid.add_row(slot.name, job.label, progress_text(job, state))
        done = self.total - len(pending) - len(running) - len(failed)
        counts = f"{done} done, {len(running)} running, {len(pending)} left, {len(failed)} failed"
        jobs = [(running[slot].job, state) for slot, state in now.items()]
        jobs += [(job, JobStatus(PENDING)) for job in pending]
        grid.add_row("", counts, eta.time_left_text(jobs, self._paces, places))
        self._live.update(grid)


def _running(job: Job) -> JobStatus:
    return JobStatus(RUNNING, progress=read_progress(job.path))
