"""Jobs as forks of one process that has loaded PyTorch, which takes longer than a small job's work.

That process loads what every job needs and does nothing else, so that no thread and no GPU is in
use where it forks. It ends when the sweep and its jobs have.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

from kd_bench.jobs.protocol import PARENT
from kd_bench.jobs.worker import worker_main

PRELOAD = "kd_bench.sweep.executors.preload"  # multiprocessing takes names of modules alone
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_PATH = 60  # characters of a folder; the path of a socket has 107 at most
SERVER_LOST = 255  # what multiprocessing says of a fork once the process that forks is gone
_CONTEXT = multiprocessing.get_context("forkserver")


def prepare(variables: Mapping[str, str]) -> None:
    """Start the process that forks, unless it runs; what calls this need not wait for it.

    Args:
        variables: of its environment: what libraries read when they are loaded.
    """
    forkserver.set_forkserver_preload([PRELOAD])
    # numpy's library would start its threads as it is loaded.
    openblas = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    resource_tracker.ensure_running()  # here, for it would let the signals through again
    with _environment({**variables, **openblas}), _blocked(SIGNALS), _short_paths():
        forkserver.ensure_running()


class ForkedProcess:
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
        with _without_main():
            try:
                self._process.start()
            except (EOFError, ConnectionError):  # it is lost just now
                prepare(variables)
                self._process.start()
        begins.close()
        begun.poll(None)  # until it has its own group of processes, which is signalled as a whole
        begun.close()

    def poll(self) -> int | None:
        """Its exit code, None while it runs; that of a killed process, where nobody knows."""
        code = self._process.exitcode
        return -signal.SIGKILL if code == SERVER_LOST else code

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
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    begins.close()  # from here on it can be signalled
    # Without the process that forks nobody would know of this one's end.
    os.environ |= {**variables, PARENT: str(os.getppid())}
    try:
        code = worker_main(frozen, number)
    except SystemExit as end:  # by a user's own code, which may say -1
        if isinstance(end.code, int) and end.code % 256 == SERVER_LOST:
            sys.exit(1)
        raise
    sys.exit(code)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that start meanwhile begin with these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Have processes that start meanwhile not hear signals, which are sent to the whole group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _short_paths() -> Iterator[None]:
    """Have temporary files lie in /tmp where their usual place is too long a name for a socket."""
    before, is_long = tempfile.tempdir, len(tempfile.gettempdir()) > MAX_PATH
    if is_long:
        tempfile.tempdir = "/tmp"
    try:
        yield
    finally:
        if is_long:
            tempfile.tempdir = before


@contextmanager
def _without_main() -> Iterator[None]:
    """Have a fork not run the program again that starts it, as multiprocessing would."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
