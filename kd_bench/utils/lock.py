"""The sole right to work in a folder, across processes and hosts that share a file system."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

HEARTBEAT_SECONDS = 10.0


STALE_SECONDS = 120.0  # a lock of another host, untouched for so long, belongs to nobody


class Locked(Exception):
    """Another process works in the folder; `args[0]` says which."""


def _process_started(pid: int) -> str:
    """When a process of this host started, in clock ticks since boot; '' where it can't be told.

    Told apart by its start, a recycled process id is not taken for the one that held the lock. A
    process that ended but that nobody waits for, as in a container without init, is gone too.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else numbers[18]


def _host() -> str:
    """What shares this process's ids: a machine since it started, and a namespace in it.

    The name alone would not do: containers share it and not their processes, and machines may
    have the same. Where two are told apart that are one, as after a reboot, a lock's age decides.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        namespace = boot = ""
    return f"{socket.gethostname()}~{boot}~{namespace}"


def _is_alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process_started(pid) == started


def _named(owner: str) -> str:
    """A lock's owner as people name it: process 4711 on somehost."""
    host, pid, _ = owner.split(",")
    return f"process {pid} on {host.partition('~')[0]}"


class Lock:
    """Sole right to work in a folder, across processes and hosts that share a file system.

    The lock is a directory `lock` with one file, named for its owner: `<host>,<pid>,<start>`.
    It appears by renaming a prepared directory, which fails where another's has a file in it. A
    dead owner's lock is taken over by renaming that owner's file: of several takers one succeeds,
    because the old name is gone for the others. On the owner's host dead means that the process
    is gone; elsewhere, that the file's time is `STALE_SECONDS` from that of a file touched just now
    in the same folder, so that this clock does not matter, and that it does not move while one
    looks, so that the owner's does not matter either, where it is that which sets the time.
    """

    def __init__(self, folder: Path):
        self.directory = folder / "lock"
        self.name = f"{_host()},{os.getpid()},{_process_started(os.getpid())}"
        self.lost = False  # somebody took over: this process must not write any more
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        while not self._create():
            owner = self._owner()
            if owner is None:
                continue  # released in between
            if not (self._is_stale(owner) and self._stays_silent(owner)):
                raise Locked(_named(owner))
            if self._take_over(owner):
                break
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if not self.lost:
            (self.directory / self.name).unlink(missing_ok=True)
            with suppress(OSError):  # empty, it was free to be taken, and somebody did at once
                self.directory.rmdir()

    def _create(self) -> bool:
        prepared = self.directory.with_name(f".lock.{self.name}")
        prepared.mkdir(exist_ok=True)
        (prepared / self.name).touch()
        try:
            prepared.rename(self.directory)
        except OSError:  # there is one, with its owner's file in it
            if not prepared.exists():  # NFS may ask twice, and be told of the second time alone
                return (self.directory / self.name).exists()
            (prepared / self.name).unlink()
            prepared.rmdir()
            return False
        return True

    def _owner(self) -> str | None:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return None
        return names[0] if names else None

    def _is_stale(self, owner: str) -> bool:
        host, pid, started = owner.split(",")
        if host == _host():
            return not _is_alive(int(pid), started)
        now = self.directory.with_name(f".now.{self.name}")
        now.touch()
        try:
            age = now.stat().st_mtime - (self.directory / owner).stat().st_mtime
        except FileNotFoundError:
            return False
        finally:
            now.unlink()
        return abs(age) > STALE_SECONDS

    def _stays_silent(self, owner: str) -> bool:
        """Whether an owner of another host gives no sign of life for two heartbeats and a half."""
        host, _, _ = owner.split(",")
        if host == _host():
            return True
        times = []
        for seconds in (0.0, 2.5 * HEARTBEAT_SECONDS):
            time.sleep(seconds)
            try:
                times.append((self.directory / owner).stat().st_mtime_ns)
            except FileNotFoundError:
                return True  # gone altogether, as taking over will find
        return times[0] == times[1]

    def _take_over(self, owner: str) -> bool:
        theirs, mine = self.directory / owner, self.directory / self.name
        try:
            os.utime(theirs)  # else the renamed file would look stale to the next taker
            theirs.rename(mine)
        except FileNotFoundError:
            return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(self.directory / self.name)
            except FileNotFoundError:
                self.lost = not self._stop.is_set()
                return
            except OSError:  # a file system that does not answer for a while: the next beat may
                continue


def lock_owner(folder: Path) -> str | None:
    """Who works in a folder, as the lock tells it; None where nobody does, or the owner is dead."""
    lock = Lock(folder)
    owner = lock._owner()
    return None if owner is None or lock._is_stale(owner) else owner


def lock_owner_text(folder: Path) -> str | None:
    """Who works in a folder, in words for people; None where nobody does, or the owner is dead.

    This only reads, so that anybody may look on. Hence another host's sign of life is judged by
    the clock of this one: good enough to be shown, not to act on.
    """
    lock = Lock(folder)
    if (owner := lock._owner()) is None:
        return None
    host, pid, started = owner.split(",")
    if host == _host():
        return _named(owner) if _is_alive(int(pid), started) else None
    try:
        age = time.time() - (lock.directory / owner).stat().st_mtime
    except FileNotFoundError:
        return None
    return _named(owner) if age <= STALE_SECONDS else None
