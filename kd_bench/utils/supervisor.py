"""Runs a function in a child process, reports how it ended, and kills its leftover processes.

The function may run a user's own code, which can call `sys.exit` or `os._exit`, crash, or start
processes that outlive it. So the child sends its result over a pipe, and the exit code is only used
in the message if there is no result. Linux makes the supervisor the parent of all orphaned
processes, in any session or process group (`PR_SET_CHILD_SUBREAPER`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from kd_bench.utils.text.output import print_lines

FAILED = 1
SIGNALS = {signal.SIGINT, signal.SIGTERM}  # forwarded to the child
MOST = 500  # characters of a reason: short enough for an atomic write to a pipe
GRACE_SECONDS, HOPELESS_SECONDS = 1.0, 5.0  # time from SIGTERM to SIGKILL, and to giving up
_LIBC = ctypes.CDLL(None)
_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # PR_... of prctl(2)


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    code: int  # as reported; otherwise `FAILED`, or minus the number of the signal that killed it
    reason: str | None = None  # why it failed, in one line, if known


def die_with(parent: int, number: int) -> None:
    """Make Linux send a signal to this process when its parent ends."""
    _LIBC.prctl(_SET_DEATH_SIGNAL, number)
    if os.getppid() != parent:  # it ended before prctl took effect
        sys.exit(FAILED)


def supervise(run: Callable[[], Ending]) -> Ending:
    """Run a function in a fork of this process, which must be single-threaded.

    SIGINT and SIGTERM are forwarded to the fork, and it is killed if this process ends.

    Args:
        run: starts with these signals blocked, and calls `accept_signals` once it can handle them.

    Returns:
        The result of `run`, or how its process ended if it did not return.
    """
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCHLD})
    receiver, sender = Pipe(duplex=False)
    supervisor = os.getpid()
    if (child := os.fork()) == 0:
        receiver.close()
        die_with(supervisor, signal.SIGKILL)
        ending = run()
        sender.send(Ending(ending.code, ending.reason and ending.reason[:MOST]))
        sys.exit(ending.code)
    sender.close()
    code = _wait(child)
    _end_what_is_left()
    return _reported(receiver) or _described(code)


def accept_signals() -> None:
    """Unblock signals in this process, and make SIGINT raise `KeyboardInterrupt`.

    A shell starts background processes with SIGINT ignored, and Ray blocks it in its workers;
    their child processes inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _wait(child: int) -> int:
    """The exit code of a child; minus the signal's number if it was killed."""
    parent = os.getppid()
    while True:
        number = signal.sigwait({*SIGNALS, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            # The child has not been reaped yet, so its PID cannot have been reused.
            os.kill(child, number if os.getppid() == parent else signal.SIGKILL)
        statuses = dict(_ended_children())
        if child in statuses:
            return os.waitstatus_to_exitcode(statuses[child])


def _ended_children() -> Iterator[tuple[int, int]]:
    """Reap the children that have ended: their PIDs and statuses."""
    with suppress(ChildProcessError):  # no children are left
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


def _end_what_is_left() -> None:
    """Terminate all children; their orphans become children of this process, and are next."""
    begin, terminated = time.monotonic(), set()
    while _has_children():
        waited = time.monotonic() - begin
        if waited > GRACE_SECONDS + HOPELESS_SECONDS:
            text = f"child processes of this job cannot be killed: {_children()}"
            print_lines(text, file=sys.stderr)
            return
        for pid in _children():
            with suppress(PermissionError):  # it runs as another user
                if waited > GRACE_SECONDS:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in terminated:
                    os.kill(pid, signal.SIGTERM)
                    terminated.add(pid)
        time.sleep(0.01)
        dict(_ended_children())


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """PIDs of the children; none can be reused before the child is reaped."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended meanwhile
            parent = path.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _reported(receiver: Connection) -> Ending | None:
    """The result that the child sent; None if it ended before that."""
    with receiver, suppress(EOFError):
        if receiver.poll():
            ending: Ending = receiver.recv()
            return ending
    return None


def _described(code: int) -> Ending:
    if code < 0:
        return Ending(code)
    return Ending(FAILED, f"its process ended with exit code {code} and no result")
