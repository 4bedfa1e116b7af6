"""The process of one job of a sweep: python -m kd_bench.jobs.worker SWEEP.jsonl NUMBER.

It imports PyTorch only when it runs a job, so that a sweep can refer to it for free.
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


def worker_main(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file in this process, as the environment says.

    Returns:
        As `run_job`.
    """
    if parent := os.environ.get(PARENT):
        _end_with(int(parent))
    # A shell makes what it starts in the background ignore Ctrl-C; a sweep's jobs must end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return run_job(path, number)


def run_job(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file; the exit code: 0, `LOCKED_ELSEWHERE`, `INTERRUPTED`."""
    from kd_bench.jobs.runner import NullReporter, run

    sys.path.insert(0, os.getcwd())  # where a user's own losses and models are
    try:
        run(read_job(path, number), NullReporter())
    except Locked:
        return LOCKED_ELSEWHERE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _end_with(parent: int) -> None:
    """Make Linux kill this process when the process that started it ends."""
    end_with_parent = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit(1)
    # Ray blocks this signal in its processes, and so in those that they start.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


if __name__ == "__main__":
    sys.exit(worker_main(Path(sys.argv[1]), int(sys.argv[2])))
