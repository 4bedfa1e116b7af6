"""kd-bench status: the progress of sweeps, read from files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_bench.cli.common.parser import Parser, existing_runs_dir
from kd_bench.jobs.job import Job, read_jobs, sweep_files
from kd_bench.jobs.status import (
    DONE,
    FAILED,
    KINDS,
    RUNNING,
    JobStatus,
    job_statuses,
    progress_text,
)
from kd_bench.sweep.eta import ThroughputHistory, time_left_text
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Shows the progress of sweeps: the number of jobs that are done, running, failed and pending; epoch,
accuracy, speed and time left of running jobs; and why jobs failed. It only reads files, so it works
in another terminal or on another machine while a sweep runs.

  kd-bench status                 every sweep of runs/
  kd-bench status quickstart      the sweeps whose names start with quickstart
"""


def main(words: Sequence[str]) -> int:
    """Print the progress of sweeps; 2 if none of their files can be read, otherwise 0."""
    parser = Parser("status", DESCRIPTION)
    parser.add_argument(
        "sweep", metavar="SWEEP", nargs="?", default="", help="the start of a sweep's name"
    )
    parser.add_runs_dir("runs", "the folder with the runs (default: runs)")
    args = parser.parse(words)
    code = 2
    for name, path in select_sweeps(existing_runs_dir(args.runs_dir), args.sweep).items():
        try:
            jobs = read_jobs(path)
        except UserError as error:  # the other sweeps may be readable
            print_lines(f"{name}: {error}")
            continue
        print_lines(*report(name, jobs))
        code = 0
    return code


def select_sweeps(runs: Path, prefix: str) -> dict[str, Path]:
    """The files of the sweeps whose names start with `prefix`.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    files = sweep_files(runs)
    require(bool(files), f"no sweep was started in {runs}; choose another folder with runs_dir=DIR")
    found = {name: path for name, path in files.items() if name.startswith(prefix)}
    if not found:
        names = ", ".join(sorted(files))
        raise UserError(f"unknown sweep '{prefix}' in {runs}; choose from {names}")
    return found


def report(name: str, jobs: Sequence[Job]) -> list[str]:
    """A sweep as lines: counts, running and failed jobs, and damaged files."""
    statuses = job_statuses(jobs)
    kinds = Counter(status.kind for status in statuses.values())
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    left = _time_left(jobs, statuses, kinds[RUNNING])
    running = [
        f"  {job.label}: {progress_text(job, status)} ({status.owner})"
        for job in jobs
        if (status := statuses[job.folder]).kind == RUNNING
    ]
    failed = [
        f"  {job.label}: FAILED: {status.reason}; see {job.path}"
        for job in jobs
        if (status := statuses[job.folder]).kind == FAILED
    ]
    damaged = [
        f"  {job.label}: {status.damage}" for job in jobs if (status := statuses[job.folder]).damage
    ]
    return [f"{name}: {counts}" + (f"; {left}" if left else ""), *running, *failed, *damaged]


def _time_left(jobs: Sequence[Job], statuses: Mapping[str, JobStatus], running: int) -> str:
    """See `time_left_text`; the number of running jobs is used as the number of slots."""
    if not running:
        return ""
    history = ThroughputHistory()
    for status in statuses.values():
        if status.record is not None:
            history.add_record(status.record)
    unfinished = [(job, statuses[job.folder]) for job in jobs]
    unfinished = [(job, status) for job, status in unfinished if status.kind != DONE]
    return time_left_text(unfinished, history, running)
