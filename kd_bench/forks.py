"""Jobs as forks of one process that has loaded PyTorch, which takes longer than a small job's work.

That process loads what every job needs and does nothing else, so that no thread and no GPU is in
use where it forks. It ends with the sweep.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

PROGRAM = "kd_bench.run"  # a module with `work`
LOADED = (PROGRAM, "kd_bench.events")  # once, for all
_CONTEXT = multiprocessing.get_context("forkserver")


def prepare(variables: Mapping[str, str]) -> None:
    """Start the process that forks, unless it runs; what calls this need not wait for it.

    Args:
        variables: of its environment: what libraries read when they are loaded.
    """
    forkserver.set_forkserver_preload(list(LOADED))
    # numpy's library would start its threads as it is loaded.
    with _environment({**variables, "OPENBLAS_NUM_THREADS": "1"}):
        forkserver.ensure_running()


class Fork:
    """A job's process of this machine, and all that it starts."""

    def __init__(self, frozen: Path, number: int, log: Path, variables: Mapping[str, str]):
        """Start job `number` of the sweep file `frozen`.

        Args:
            log: what it prints goes there.
            variables: of its environment, as `prepare` takes them, and those of its place.
        """
        begun, begins = _CONTEXT.Pipe(duplex=False)
        arguments = (frozen, number, log, dict(variables), begins)
        self._process = _CONTEXT.Process(target=_work, args=arguments)
        prepare(variables)  # once more, should the process that forks have been lost
        self._process.start()
        begins.close()
        begun.poll(None)  # until it has its own group of processes, which is signalled as a whole
        begun.close()

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Signal its whole group; one that was killed is waited for, so that nothing is left."""
        if self._process.exitcode is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.killpg(self._process.pid, number)
            if number == signal.SIGKILL:
                self._process.join()

    def reason(self) -> None:
        """Nothing: the exit code says it all."""


def _work(
    frozen: Path, number: int, log: Path, variables: Mapping[str, str], begins: Connection
) -> None:
    os.setsid()  # Ctrl-C reaches the sweep alone, which passes it on
    begins.close()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ |= variables
    sys.exit(importlib.import_module(PROGRAM).work(frozen, number))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that start meanwhile begin with these variables."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
