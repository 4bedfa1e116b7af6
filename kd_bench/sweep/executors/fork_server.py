"""Starts jobs as forks of a process that has loaded PyTorch, which can take longer than a job.

That process is the fork server of `multiprocessing`. It only imports `PRELOAD`, so that it has a
single thread and uses no GPU when it forks. It exits after the sweep and its jobs.

`multiprocessing` has no options for some requirements of the server and the forks. Instead,
`_server_conditions` sets four global states while they start, because CPython 3.10 to 3.13

1. starts the server with the current `os.environ`,
2. starts it with the current signal mask, which its forks inherit,
3. creates the server's socket in `tempfile.tempdir`,
4. and re-runs the main module, `sys.modules["__main__"]`, in each fork.

tests/unit/sweep/test_server_conditions.py has a test for each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from kd_bench.jobs.protocol import PARENT
from kd_bench.jobs.worker import run_supervised
from kd_bench.utils.supervisor import Ending

PRELOAD = "kd_bench.sweep.executors.preload"  # multiprocessing only accepts names of modules
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAFE_PATH = "PYTHONSAFEPATH"
MAX_PATH = 60  # characters of the temporary folder's path; a Unix socket's path has at most 107
SERVER_LOST = 255  # the exit code that multiprocessing reports for a fork whose server has died
_CONTEXT = multiprocessing.get_context("forkserver")
_Value = TypeVar("_Value")


def prepare(variables: Mapping[str, str]) -> None:
    """Start the server unless it is running; it loads PyTorch in the background.

    Args:
        variables: environment variables for libraries that read them when they are loaded.
    """
    with _server_conditions(variables):
        forkserver.ensure_running()


class ForkedProcess:
    """A job's process on this machine, with all processes that it starts."""

    def __init__(self, file: Path, number: int, log: Path, variables: Mapping[str, str]):
        """Start job `number` of a sweep's file.

        Args:
            file: of the sweep.
            number: of the job.
            log: file to which its output is appended.
            variables: environment variables: those of `prepare` and those of its slot.
        """
        self._messages, sender = _CONTEXT.Pipe(duplex=False)
        self._ending: Ending | None = None
        arguments = (file, number, log, dict(variables), sender)
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        with _server_conditions(variables):  # also for a server that replaces one that died
            try:
                self._process.start()
            except (EOFError, ConnectionError):  # the server died just now
                self._process.start()
        sender.close()
        with suppress(EOFError):  # it ended immediately
            self._messages.recv()  # now it has its process group

    def poll(self) -> int | None:
        """Its exit code, None while it runs; if the server is killed, the job dies with it."""
        if self._process.exitcode is None:
            return None
        if self._ending is None:
            self._ending = self._received() or _unreported(self._process.exitcode)
        return self._ending.code

    def _received(self) -> Ending | None:
        with self._messages, suppress(EOFError):
            if self._messages.poll():
                ending: Ending = self._messages.recv()
                return ending
        return None

    def signal(self, number: int) -> None:
        """Send it a signal, which it forwards to the job; SIGKILL goes to its process group.

        After SIGKILL, wait until it has ended.
        """
        if self._process.exitcode is None and self._process.pid is not None:
            with suppress(ProcessLookupError):  # it has just ended
                if number == signal.SIGKILL:
                    os.killpg(self._process.pid, number)
                else:
                    os.kill(self._process.pid, number)
            if number == signal.SIGKILL:
                self._process.join()

    def reason(self) -> str | None:
        """The reason that it reported, which is available even if the disk is full."""
        return None if self._ending is None else self._ending.reason


def _unreported(code: int) -> Ending:
    """The ending of a fork that did not report how its job ended."""
    return Ending(-signal.SIGKILL if code == SERVER_LOST else code)


def _run(
    file: Path, number: int, log: Path, variables: Mapping[str, str], messages: Connection
) -> None:
    """Run a job, in the process that was forked for it."""
    os.setsid()  # its own process group: Ctrl-C reaches only the sweep, which forwards it
    output = _open(log)
    for stream in (1, 2):
        os.dup2(output, stream)
    messages.send(None)  # the process group exists, so signals can be sent; they are still blocked
    os.environ.pop(SAFE_PATH, None)  # only for the server
    # This job must die with the server, because only the server can report its exit code.
    os.environ.update({**variables, PARENT: str(os.getppid())})
    ending = run_supervised(file, number)
    with suppress(BrokenPipeError):  # the sweep was killed
        messages.send(ending)


def _open(log: Path) -> int:
    try:
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError:  # such as a full disk, which the job will report
        return os.open(os.devnull, os.O_WRONLY)


@contextmanager
def _server_conditions(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the global states for starting the server and the forks; see the module's docstring.

    Args:
        variables: for the server's environment.
    """
    forkserver.set_forkserver_preload([PRELOAD])
    # 1. OpenBLAS, used by numpy, would start its threads as soon as it is loaded.
    openblas = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    # 3. A path that is too long for a socket is replaced.
    is_long = len(tempfile.gettempdir()) > MAX_PATH
    short = {"tempdir": "/tmp"} if is_long else {}
    # 4. An empty module, so that there is no file to re-run. A script without `if __name__ ==
    # "__main__"` would start its sweep again in each fork.
    no_main = {"__main__": ModuleType("__main__")}
    # Without it, Python would import the server's libraries from the current folder (honoured
    # since Python 3.11).
    safe_path = {SAFE_PATH: "1"}
    # 2. Signals to the whole process group must not end the server before the jobs, nor a job
    # before it can handle them. The resource tracker, which the server needs, is started first,
    # because starting it unblocks SIGINT and SIGTERM.
    with _replaced(os.environ, safe_path):
        resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with (
            _replaced(os.environ, {**variables, **openblas, **safe_path}),
            _replaced(vars(tempfile), short),
            _replaced(sys.modules, no_main),
        ):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _replaced(mapping: MutableMapping[str, _Value], values: Mapping[str, _Value]) -> Iterator[None]:
    """Set entries of a mapping, and restore the previous ones at the end."""
    before = {name: mapping[name] for name in values if name in mapping}
    mapping.update(values)
    try:
        yield
    finally:
        for name in values:
            del mapping[name]
        mapping.update(before)
