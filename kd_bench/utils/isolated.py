"""Runs a function in a fork of this process, in which it cannot change anything outside."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Result = TypeVar("Result")
_CONTEXT = multiprocessing.get_context("fork")  # loaded modules need not be imported again

# Python's audit events (https://docs.python.org/3/library/audit_events.html) for side effects.
_CHANGES = ("os.", "shutil.", "subprocess.", "socket.", "pty.", "sqlite3.", "signal.", "tempfile.")
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv")


def run_isolated(function: Callable[[], Result], seconds: float) -> Result | None:
    """The result of a function, which must not raise; its output is discarded.

    Returns:
        None if it exits, is killed, takes longer than `seconds`, or is about to change anything
        outside its process: the fork exits before it writes a file or starts a process.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(function, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:  # it exited without a result
        return None
    finally:
        receiver.close()
        _kill(process)


def _kill(process: BaseProcess) -> None:
    """Kill a process and any processes that it started all the same."""
    assert process.pid is not None  # it was started
    with suppress(ProcessLookupError):  # it has not created its group yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _run(function: Callable[[], object], sender: Connection) -> None:
    os.setsid()  # its own process group
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.dont_write_bytecode = True
    sys.addaudithook(_end_before_changes)
    sender.send(function())


def _end_before_changes(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        is_change = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        is_change = event.startswith(_CHANGES) and event not in _HARMLESS
    if is_change:
        os._exit(0)
