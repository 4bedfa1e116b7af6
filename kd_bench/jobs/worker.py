"""One job of a sweep's file in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from kd_bench.jobs.reporter import Quiet
from kd_bench.jobs.runner import run
from kd_bench.utils.lock import LOCKED_ELSEWHERE, Locked


def main() -> int:
    """python -m kd_bench.jobs.worker SWEEP.jsonl NUMBER: run one frozen job; what a sweep starts."""
    return worker_main(Path(sys.argv[1]), int(sys.argv[2]))


def _end_with(parent: int) -> None:
    """Have Linux end this process at the same time as the one that started it."""
    end_with_parent = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit(1)
    # Ray's processes, and so those that they start, do not listen to Ctrl-C.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def worker_main(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file as the environment says; see `run_job`.

    KD_BENCH_PARENT is the process that it ends with, KD_BENCH_CORES are the cores that it keeps to.
    """
    if parent := os.environ.get("KD_BENCH_PARENT"):
        _end_with(int(parent))
    # A shell has what it starts in the background ignore it; a sweep's jobs end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if cores := os.environ.get("KD_BENCH_CORES"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return run_job(path, number)


def run_job(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file; its exit code: 0, `LOCKED_ELSEWHERE`, 130 interrupted."""
    sys.path.insert(0, os.getcwd())  # where a user's own losses and models are looked for
    job = json.loads(path.read_text().splitlines()[number])
    try:
        run(job["config"], job["changed"], Quiet())
    except Locked:
        return LOCKED_ELSEWHERE
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
