"""Intercepts the file operations of a process, and injects a fault before one of them.

Operations are Python's audit events; `os.fsync` has none, so it is wrapped. Operations below the
watched folder are counted from 1 in each process, and written to a journal outside it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "KD_BENCH_FAULT"  # the environment variable with the fault for child processes
MAKES_FILES = ("open", "mkdir", "fsync")  # operations that fail on a full disk
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {  # audit event -> operation, index of the path, index of its folder's descriptor
    "open": ("open", 0, None),
    "os.rename": ("rename", 1, 3),
    "os.remove": ("unlink", 0, 1),
    "os.mkdir": ("mkdir", 0, 2),
    "os.rmdir": ("rmdir", 0, 1),
    "os.link": ("link", 1, 3),
    "os.symlink": ("symlink", 1, 2),
}


@dataclass(frozen=True)
class Fault:
    """An action before one of the file operations of a process."""

    action: str  # the name of a method of `Hook`; "nothing" only counts
    at: int = 0  # the number of the operation; 0: never

    @property
    def text(self) -> str:
        """The fault in words."""
        return f"{self.action} at file operation {self.at}"


NOTHING = Fault("nothing")


@dataclass(frozen=True)
class Operation:
    """A file operation in the journal."""

    pid: int
    number: int
    name: str
    path: str  # relative to the watched folder

    @property
    def text(self) -> str:
        """The operation in words."""
        return f"{self.name} {self.path}"


class Hook:
    """The faults: methods called before an operation."""

    def __init__(self, fault: Fault, watched: Path, journal: Path):
        self._fault, self._watched, self._pid, self._count = fault, str(watched), os.getpid(), 0
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._unflushed: set[str] = set()
        self._acting = False

    def before(self, name: str, path: str, source: str | None = None) -> None:
        """Called before a file operation: counts it, and injects the fault if it is due."""
        if self._acting or not path.startswith(self._watched + os.sep):
            return
        if self._pid != os.getpid():  # a fork has its own count
            self._pid, self._count = os.getpid(), 0
        self._count += 1
        number = self._count
        if 0 < self._fault.at <= number:
            self._acting = True
            try:
                getattr(self, self._fault.action)(number == self._fault.at, name, path)
            finally:
                self._acting = False
        # Not reached if the fault ended the process or raised an error
        relative = os.path.relpath(path, self._watched)
        os.write(self._journal, f"{self._pid}\t{number}\t{name}\t{relative}\n".encode())
        self._remember_unflushed(name, path, source)

    def _remember_unflushed(self, name: str, path: str, source: str | None) -> None:
        if name == "open":
            self._unflushed.add(path)
        elif name == "rename" and source in self._unflushed:
            self._unflushed = self._unflushed - {source} | {path}
        else:
            self._unflushed.discard(path)

    def nothing(self, is_now: bool, name: str, path: str) -> None:
        """Do nothing; the operation is only counted."""

    def kill(self, is_now: bool, name: str, path: str) -> None:
        """Kill the process."""
        os.kill(os.getpid(), signal.SIGKILL)

    def tear(self, is_now: bool, name: str, path: str) -> None:
        """Kill the process in the middle of the write before this flush: half the file exists."""
        if os.path.isfile(path):
            os.truncate(path, os.path.getsize(path) // 2)
        self.kill(is_now, name, path)

    def power_cut(self, is_now: bool, name: str, path: str) -> None:
        """Kill the process and lose everything it wrote without flushing."""
        for unflushed in filter(os.path.isfile, self._unflushed):
            os.truncate(unflushed, 0)
        self.kill(is_now, name, path)

    def full_disk(self, is_now: bool, name: str, path: str) -> None:
        """Fail all writes from now on, as on a full disk."""
        if name in MAKES_FILES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def lose_folder(self, is_now: bool, name: str, path: str) -> None:
        """Move the runs folder away, as when a network mount is lost."""
        if is_now:
            os.rename(f"{self._watched}/runs", f"{self._watched}/runs_elsewhere")

    def interrupt(self, is_now: bool, name: str, path: str) -> None:
        """Send SIGINT, as Ctrl-C does."""
        if is_now:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupt_twice(self, is_now: bool, name: str, path: str) -> None:
        """Send SIGINT, and once more while the process ends."""
        if self._count - self._fault.at in (0, 1):
            os.kill(os.getpid(), signal.SIGINT)

    def stop(self, is_now: bool, name: str, path: str) -> None:
        """Stop the process until it gets SIGCONT."""
        if is_now:
            os.kill(os.getpid(), signal.SIGSTOP)


def install(fault: Fault, watched: Path, journal: Path) -> None:
    """Watch the operations of this process and its forks from now on."""
    hook = Hook(fault, watched, journal)
    flush = os.fsync

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not _writes(arguments)):
            return
        name, position, folder = EVENTS[event]
        path = _absolute(arguments[position], None if folder is None else arguments[folder])
        hook.before(name, path, _absolute(arguments[0]) if name == "rename" else None)

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        hook.before("fsync", os.readlink(f"/proc/self/fd/{number}"))
        flush(file)

    sys.addaudithook(audit)
    os.fsync = fsync


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, _, flags = arguments
    return not isinstance(path, int) and bool(flags & WRITES)


def _absolute(path: Any, descriptor: int | None = None) -> str:
    path = os.fsdecode(path)
    if descriptor is not None and descriptor >= 0 and not os.path.isabs(path):
        path = os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), path)
    return os.path.abspath(path)


def variables(fault: Fault, watched: Path, journal: Path) -> dict[str, str]:
    """Environment variables with which child Python processes install the hook."""
    here = Path(__file__).resolve().parent
    folders = [str(here / "descendants"), str(here.parent), os.environ.get("PYTHONPATH", "")]
    values = {"fault": asdict(fault), "watched": str(watched), "journal": str(journal)}
    return {"PYTHONPATH": os.pathsep.join(filter(None, folders)), VARIABLE: json.dumps(values)}


def install_from_environment() -> None:
    """Install the hook that `variables` describes, if it is set."""
    if text := os.environ.get(VARIABLE):
        values = json.loads(text)
        fault = Fault(**values["fault"])
        install(fault, Path(values["watched"]), Path(values["journal"]))


def read_journal(journal: Path) -> list[Operation]:
    """The operations of all processes, in order."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    rows = (line.split("\t") for line in lines)
    return [Operation(int(pid), int(number), name, path) for pid, number, name, path in rows]
