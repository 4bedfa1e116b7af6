"""Starts jobs as forks of one process with PyTorch loaded: loading takes longer than a small job.

That process is `multiprocessing`'s fork server. It imports `PRELOAD` and does nothing else, so that
no second thread runs and no GPU is in use where it forks. It exits after the sweep and its jobs.

`multiprocessing` has no options for what the server and the forks need here. Instead,
`_server_conditions` sets four global states while it starts them, because CPython 3.10 to 3.13

1. starts the server with the `os.environ` of that moment,
2. and with the signal mask of that moment, which forks inherit from the server,
3. places the server's socket below `tempfile.tempdir`,
4. and re-runs in a fork the main module that `sys.modules["__main__"]` names.

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

PRELOAD = "kd_bench.sweep.executors.preload"  # multiprocessing takes only names of modules
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAFE_PATH = "PYTHONSAFEPATH"
MAX_PATH = 60  # characters of the temporary folder's path; a Unix socket's path has at most 107
SERVER_LOST = 255  # the exit code that multiprocessing reports for a fork whose server has died
_CONTEXT = multiprocessing.get_context("forkserver")
_Value = TypeVar("_Value")


def prepare(variables: Mapping[str, str]) -> None:
    """Start the server unless it runs; it loads PyTorch while the caller goes on.

    Args:
        variables: of its environment, for libraries that read them when they are loaded.
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
            log: its output is appended here.
            variables: of its environment: those of `prepare`, and those of its slot.
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
        with suppress(EOFError):  # it ended at once
            self._messages.recv()  # it has a process group

    def poll(self) -> int | None:
        """Its exit code, None while it runs; it died with the server if that was killed."""
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
        """Send it a signal, which it passes on to the job; SIGKILL to its whole process group.

        After SIGKILL, wait until it is gone.
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
        """What it reported, also where a full disk has no room for its error."""
        return None if self._ending is None else self._ending.reason


def _unreported(code: int) -> Ending:
    """The end of a fork that did not say how its job ended."""
    return Ending(-signal.SIGKILL if code == SERVER_LOST else code)


def _run(
    file: Path, number: int, log: Path, variables: Mapping[str, str], messages: Connection
) -> None:
    """Run a job, in the process that was forked for it."""
    os.setsid()  # a group of its own: Ctrl-C reaches only the sweep, which forwards it
    output = _open(log)
    for stream in (1, 2):
        os.dup2(output, stream)
    messages.send(None)  # from here on it can be signalled; the server blocks signals until then
    os.environ.pop(SAFE_PATH, None)  # the server's, not the job's
    # This job must die with the server, because only the server can report its exit code.
    os.environ.update({**variables, PARENT: str(os.getppid())})
    ending = run_supervised(file, number)
    with suppress(BrokenPipeError):  # the sweep was killed
        messages.send(ending)


def _open(log: Path) -> int:
    try:
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError:  # on a full disk the job will say more
        return os.open(os.devnull, os.O_WRONLY)


@contextmanager
def _server_conditions(variables: Mapping[str, str]) -> Iterator[None]:
    """The global states in which the server and the forks are started, see the module's docstring.

    Args:
        variables: for the server's environment.
    """
    forkserver.set_forkserver_preload([PRELOAD])
    # 1. numpy's library would start its threads as soon as it is loaded.
    openblas = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    # 3. A path that is too long for a socket's name is replaced.
    is_long = len(tempfile.gettempdir()) > MAX_PATH
    short = {"tempdir": "/tmp"} if is_long else {}
    # 4. This module has no file to re-run. A script without `if __name__ == "__main__"` would start
    # its sweep once more in each fork.
    no_main = {"__main__": ModuleType("__main__")}
    # Python would search the current folder for the server's own libraries (since Python 3.11).
    safe_path = {SAFE_PATH: "1"}
    # 2. Signals to the whole process group must not end the server before the jobs, and a job only
    # once it can handle them. The resource tracker, which the server's start needs, is started
    # before: starting it unblocks SIGINT and SIGTERM.
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
    """Set entries of a mapping, and restore what they were at the end."""
    before = {name: mapping[name] for name in values if name in mapping}
    mapping.update(values)
    try:
        yield
    finally:
        for name in values:
            del mapping[name]
        mapping.update(before)
