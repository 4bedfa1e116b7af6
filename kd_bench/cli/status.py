"""kd-bench status: how far sweeps are, told from their files alone, while they run or after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_bench.cli.parser import Parser, existing_runs_dir
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
from kd_bench.sweep import eta
from kd_bench.sweep.eta import ThroughputHistory
from kd_bench.utils.errors import UserError, require

DESCRIPTION = """\
Shows how far sweeps are: how many jobs are done, running, failed and left, the running ones with
epoch, accuracy, speed and time left, and why jobs failed. It reads files alone, so it can be asked
from another terminal, or another machine, while a sweep runs.

  kd-bench status                 every sweep of runs/
  kd-bench status quickstart      the sweeps whose names begin so
"""


def main(words: Sequence[str]) -> int:
    """Print how far the sweeps are."""
    parser = Parser("status", DESCRIPTION)
    parser.add_argument("sweep", metavar="SWEEP", nargs="?", default="", help="a name's beginning")
    parser.add_runs_dir("runs", "the folder with the runs (default: runs)")
    args = parser.parse(words)
    for name, path in chosen(existing_runs_dir(args.runs_dir), args.sweep).items():
        print("\n".join(report(name, read_jobs(path))))
    return 0


def chosen(runs: Path, prefix: str) -> dict[str, Path]:
    """The files of the sweeps whose names begin with `prefix`.

    Raises:
        UserError: there is none; with those that there are.
    """
    there = sweep_files(runs)
    require(bool(there), f"no sweep was started in {runs}; another place is chosen by runs_dir=DIR")
    found = {name: path for name, path in there.items() if name.startswith(prefix)}
    if not found:
        raise UserError(f"no sweep '{prefix}' in {runs}; there are {', '.join(sorted(there))}")
    return found


def report(name: str, jobs: Sequence[Job]) -> list[str]:
    """A sweep in lines: its counts, then its running and its failed jobs."""
    now = job_statuses(jobs)
    kinds = Counter(state.kind for state in now.values())
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)
    left = _time_left(jobs, now, kinds[RUNNING])
    lines = [f"{name}: {counts}" + (f"; {left}" if left else "")]
    for job in jobs:
        state = now[job.folder]
        if state.kind == RUNNING:
            lines.append(f"  {job.label}: {progress_text(job, state)} ({state.owner})")
    for job in jobs:
        state = now[job.folder]
        if state.kind == FAILED:
            lines.append(f"  {job.label}: FAILED: {state.reason}; see {job.path}")
    return lines


def _time_left(jobs: Sequence[Job], now: Mapping[str, JobStatus], running: int) -> str:
    """As `estimate.left_words`, for as many places as there are running jobs."""
    if not running:
        return ""
    paces = ThroughputHistory()
    for state in now.values():
        if state.kind == DONE:
            paces.add_record(state.record)
    unfinished = [(job, now[job.folder]) for job in jobs if now[job.folder].kind != DONE]
    return eta.time_left_text(unfinished, paces, running)
