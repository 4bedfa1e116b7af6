"""Starts the processes of one job on this machine, with the library behind torchrun."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kd_bench.training.distributed.ranks import Ranks
from kd_bench.utils.errors import OwnCodeError, ProcessLost, UserError, error_text, failure_reason
from kd_bench.utils.lock import Locked
from kd_bench.utils.supervisor import accept_signals, die_with

# How long processes wait for one that does not respond. The others also wait while the first one
# evaluates a teacher or writes a file. If a process dies, the others are terminated at once.
PATIENCE = timedelta(hours=1)
CONSEQUENCE_SECONDS = 2.0  # long enough for the death of another process to be noticed
# Sent by Slurm before a time limit, on some clusters to all processes of a job.
LIMIT_SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}
PASSED_ON = (UserError, Locked, FloatingPointError, KeyboardInterrupt)  # unchanged
MOST = 10_000  # characters of an error: writing more than a pipe holds would block
TIMED_OUT = "Timed out waiting"  # in the message of gloo's error, a plain RuntimeError


class _Ended(BaseException):
    """The parent terminates this process."""


def launch(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(ranks, *arguments)` in `size` new processes, each with its `Ranks`.

    If one of them fails, the others are terminated. All of them end with this process.

    Args:
        size: the number of processes.
        function: a module-level function, since it is pickled by name.
        arguments: sent to the processes with pickle.

    Returns:
        The return value of the first process.

    Raises:
        ProcessLost: a process was killed, or did not respond for `PATIENCE`.
        OwnCodeError: a process failed.
        UserError, Locked, FloatingPointError, KeyboardInterrupt: re-raised from a process.
    """
    _start_tracker()
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, _own_signals(), _quiet():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port, like torchrun --standalone
            local_addr="localhost",
            max_restarts=0,  # the next run of the job resumes
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            returned = elastic_launch(config, _enter)(os.getpid(), failures, function, arguments)
        except ChildFailedError as error:
            if failures.empty():  # perhaps killed by a signal that this process gets any moment
                time.sleep(CONSEQUENCE_SECONDS)
            raise _failure(failures, error) from None
    return returned[0]


def _start_tracker() -> None:
    """Start multiprocessing's resource tracker with signals blocked that would kill it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LIMIT_SIGNALS)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _enter(
    parent: int, failures: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Call the function in one of the processes."""
    die_with(parent, signal.SIGKILL)
    accept_signals()
    _handle_signals()
    with suppress(_Ended):
        try:
            _join()
            ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
            returned = function(ranks, *arguments)
        except PASSED_ON as error:
            failures.put(type(error)(str(error)[:MOST]))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # any exception is a failure
            # If another process was killed, this error is only the lost connection to it, and this
            # process is terminated while it sleeps.
            time.sleep(CONSEQUENCE_SECONDS)
            failures.put(_to_report(error))
        else:
            distributed.destroy_process_group()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to release
            return returned
    sys.stdout.flush()
    os._exit(1)  # at once: the other processes may be waiting for this one


def _handle_signals() -> None:
    """Leave time limits to the parent, and release locks when it sends SIGTERM."""

    def end(_number: int, _frame: object) -> None:
        raise _Ended

    signal.signal(signal.SIGTERM, end)
    for number in LIMIT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _to_report(error: BaseException) -> Exception:
    """The error that the parent raises for an error in one of the processes."""
    if isinstance(error, RuntimeError) and TIMED_OUT in str(error):
        hours = PATIENCE / timedelta(hours=1)
        return ProcessLost(f"a process of the job did not respond for {hours:g} h")
    return OwnCodeError(error_text(error)[-MOST:], failure_reason(error)[:MOST])


def _join() -> None:
    """Connect this process to the others, and assign it a GPU if there are any."""
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        backend += ",cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group(backend, timeout=PATIENCE)


def _failure(failures: Any, error: ChildFailedError) -> BaseException:
    """The error of the first process that failed."""
    if not failures.empty():
        reported: BaseException = failures.get()
        return reported
    rank, failed = error.get_first_failure()
    return ProcessLost(f"process {rank + 1} of the job was lost: {failed.message}")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore signal handlers on exit; a signal that ended the processes is raised again then."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield
    except SignalException as end:
        restore()
        signal.raise_signal(end.sigval)
        raise
    finally:
        restore()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's own log lines, on failures (which are raised) and on speed."""
    level = "TORCH_CPP_LOG_LEVEL"  # read by the started processes
    was_set = level in os.environ
    os.environ.setdefault(level, "ERROR")
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if not was_set:
            del os.environ[level]
