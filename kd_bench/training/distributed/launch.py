"""Starts the processes of one job on this machine, with the library behind the command torchrun."""

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
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kd_bench.training.distributed.ranks import Ranks
from kd_bench.utils.errors import OwnCodeError, UserError, error_text
from kd_bench.utils.lock import Locked
from kd_bench.utils.supervisor import accept_signals, die_with

# The other processes wait for the first one while it scores a teacher, or writes a file. If a
# process ends, the others are ended at once, however long they would have waited.
PATIENCE = timedelta(hours=6)
CONSEQUENCE_SECONDS = 2.0  # in which the end of another process is noticed
PASSED_ON = (UserError, Locked, FloatingPointError, KeyboardInterrupt)  # as they are


class ProcessLost(RuntimeError):  # noqa: N818  # what happened, not whose mistake it was
    """A process of a job ended without a word: killed, or crashed."""


def launch(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(ranks, *arguments)` in `size` new processes, each with its `Ranks`.

    When one of them fails, the others are ended. All of them end with this process.

    Args:
        size: how many.
        function: of a module, as it is found by its name there.
        arguments: sent to the processes with pickle.

    Returns:
        What the first process returned.

    Raises:
        ProcessLost: a process was killed.
        OwnCodeError: a process failed; with the text to show for it.
        UserError, Locked, FloatingPointError, KeyboardInterrupt: as a process raised it.
    """
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, _own_signals(), _quiet():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port, as torchrun --standalone
            local_addr="localhost",
            max_restarts=0,  # the next run of the job resumes
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            returned = elastic_launch(config, _enter)(os.getpid(), failures, function, arguments)
        except ChildFailedError as error:
            raise _failure(failures, error) from None
    return returned[0]


def _enter(
    parent: int, failures: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Call the function in one of the processes."""
    die_with(parent, signal.SIGKILL)
    accept_signals()
    try:
        _join()
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
        returned = function(ranks, *arguments)
    except PASSED_ON as error:
        failures.put(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it raises is its failure
        # If another process was killed, the error is its lost connection, and this one ends now.
        time.sleep(CONSEQUENCE_SECONDS)
        failures.put(OwnCodeError(error_text(error)))
    else:
        distributed.destroy_process_group()
        return returned
    sys.stdout.flush()
    os._exit(1)  # at once, and not after the other processes, which may be waiting for this one


def _join() -> None:
    """Connect this process with the others, and give it a GPU, if there are any, as its own."""
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        backend += ",cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group(backend, timeout=PATIENCE)


def _failure(failures: Any, error: ChildFailedError) -> BaseException:
    """Why the first process to fail did."""
    if not failures.empty():
        said: BaseException = failures.get()
        return said
    rank, failed = error.get_first_failure()
    return ProcessLost(f"process {rank + 1} of the job was lost: {failed.message}")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Signals do afterwards what they did before; one that ends the processes does so then."""
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
    """Without the library's own lines: about a failure, which is raised, and about speed."""
    level = "TORCH_CPP_LOG_LEVEL"  # of the processes that are started
    was_set = level in os.environ
    os.environ.setdefault(level, "ERROR")
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if not was_set:
            del os.environ[level]
