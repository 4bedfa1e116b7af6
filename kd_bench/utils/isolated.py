"""Runs a function in a fork of this process, where it can change nothing outside itself."""

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
_CONTEXT = multiprocessing.get_context("fork")  # what is loaded here need not be loaded again

# Python's audit events (https://docs.python.org/3/library/audit_events.html) of such changes.
_CHANGES = ("os.", "shutil.", "subprocess.", "socket.", "pty.", "sqlite3.", "signal.", "tempfile.")
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv")


def run_isolated(function: Callable[[], Result], seconds: float) -> Result | None:
    """The result of a function that raises no error; nothing that it prints is shown.

    Returns:
        None where it exits, is killed, takes longer than `seconds`, or is about to change anything
        outside its process: it ends before it writes a file or starts a process.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(function, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:  # it ended
        return None
    finally:
        receiver.close()
        _kill(process)


def _kill(process: BaseProcess) -> None:
    """End a process, with all that it may have started nevertheless."""
    assert process.pid is not None  # it was started
    with suppress(ProcessLookupError):  # it has no group yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _run(function: Callable[[], object], sender: Connection) -> None:
    os.setsid()  # a group of its own
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.dont_write_bytecode = True  # of what it imports
    sys.addaudithook(_end_before_changes)
    sender.send(function())


def _end_before_changes(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        is_change = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        is_change = event.startswith(_CHANGES) and event not in _HARMLESS
    if is_change:
        os._exit(0)
