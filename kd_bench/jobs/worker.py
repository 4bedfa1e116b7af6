"""Runs one job of a sweep in a process of its own.

Local sweeps call `worker_main` in a fork, Ray starts `python -m kd_bench.jobs.worker SWEEP.jsonl
NUMBER`, and Slurm's task calls `run_job`. PyTorch is imported only when a job runs, so that a sweep
can refer to this module for free.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from kd_bench.jobs.job import read_job
from kd_bench.jobs.protocol import CORES, INTERRUPTED, LOCKED_ELSEWHERE, PARENT
from kd_bench.utils.lock import Locked
from kd_bench.utils.own_modules import leave_out_current_folder


def worker_main(path: Path, number: int) -> int:
    """`run_job`, after setting up this process by the variables of `protocol`."""
    if parent := os.environ.get(PARENT):
        _die_with(int(parent))
    # A sweep ends its jobs by SIGINT. A shell makes what it starts in the background ignore it, and
    # Ray blocks it in its processes, and so in those that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return run_job(path, number)


def run_job(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file.

    Returns:
        The exit code: 0, `LOCKED_ELSEWHERE` or `INTERRUPTED`. Other errors are raised.
    """
    leave_out_current_folder()
    from kd_bench.jobs.runner import NullReporter, run

    try:
        run(read_job(path, number), NullReporter())
    except Locked:
        return LOCKED_ELSEWHERE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _die_with(parent: int) -> None:
    """Make Linux send SIGKILL to this process when its parent ends."""
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(worker_main(Path(sys.argv[1]), int(sys.argv[2])))
