"""Runs one job of a sweep in its own process.

Local sweeps call `run_supervised` in a fork, Ray starts `python -m kd_bench.jobs.worker SWEEP.jsonl
NUMBER`, and Slurm tasks call `run_job`. PyTorch is imported only when a job runs, so that importing
this module is cheap.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from kd_bench.jobs.job import read_job
from kd_bench.jobs.protocol import CORES, INTERRUPTED, LOCKED_ELSEWHERE, PARENT
from kd_bench.results.run_folder import read_error, write_error
from kd_bench.utils.errors import error_text, failure_reason
from kd_bench.utils.lock import Locked
from kd_bench.utils.own_modules import leave_out_current_folder
from kd_bench.utils.process import trace_crashes
from kd_bench.utils.supervisor import FAILED, Ending, accept_signals, die_with, supervise
from kd_bench.utils.text.output import print_lines


def run_supervised(path: Path, number: int) -> Ending:
    """Run job `number` of a sweep's file in a fork, set up by the variables in `protocol`.

    The fork and its child processes end when this process ends.
    """
    if parent := os.environ.get(PARENT):
        die_with(int(parent), signal.SIGTERM)  # forwarded to the fork
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return supervise(partial(_run, path, number))


def _run(path: Path, number: int) -> Ending:
    try:
        trace_crashes()
        accept_signals()  # a sweep stops its jobs with SIGINT
        return Ending(run_job(path, number))
    except KeyboardInterrupt:
        return Ending(INTERRUPTED)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # any error fails the job
        with suppress(OSError):  # the log may be on a full disk
            print_lines(*error_text(error).splitlines(), file=sys.stderr)
        return Ending(FAILED, failure_reason(error))


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


def record_failure(path: Path, number: int, reason: str) -> None:
    """Write why job `number` of a sweep's file failed, unless the job has written it itself."""
    folder = read_job(path, number).path
    if read_error(folder) is None:
        write_error(folder, reason)


def _main(path: Path, number: int) -> int:
    """Run a job and return its exit code, from which the sweep learns how the job ended."""
    ending = run_supervised(path, number)
    if ending.code < 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), -ending.code)
    if ending.reason is not None:
        record_failure(path, number, ending.reason)
    return ending.code


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2])))
