"""Locks a folder for one process, across hosts that share a file system."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from kd_bench.utils.errors import UserError, require

LOCK = "lock"  # the directory in a locked folder
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # a lock of another host is stale after this time without a heartbeat
OWNER = re.compile(r"[^,]+,\d+,\w*")  # host, process ID, start time
PREPARED, CLOCK = ".lock.", ".now."  # prefixes of temporary files beside a lock, before the owner
THERE_IS_ONE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class Locked(Exception):  # noqa: N818  # a state, not an error
    """Another process holds the lock of a folder; `args[0]` names it."""


def _process_started(pid: int) -> str:
    """When a process of this host started, in clock ticks since boot; '' if unknown.

    The start time distinguishes the lock's owner from a later process with the same PID. A zombie
    (exited but never reaped, as in a container without init) counts as dead.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else numbers[18]


def _host() -> str:
    """An ID of the PID namespace: host name, boot ID, and namespace number.

    The host name alone is not enough: containers may share it without sharing processes, and
    machines may have the same name. If a namespace gets a new ID, as after a reboot, staleness is
    decided by the lock's age.
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
    """A lock's owner in readable form: process 4711 on somehost."""
    host, pid, _ = owner.split(",")
    return f"process {pid} on {host.partition('~')[0]}"


class Lock:
    """The exclusive right to work in a folder, across hosts that share a file system.

    The lock is a directory `lock` with one file, named after its owner: `<host>,<pid>,<start>`.
    It is acquired by renaming a prepared directory, which fails if the target contains a file. A
    dead owner's lock is taken over by renaming the owner's file: only one of several processes
    succeeds, because the old name is then gone. On the owner's host, the owner is dead if its
    process no longer exists. On other hosts, the owner is dead if the file's mtime is more than
    `STALE_SECONDS` away from that of a file touched just now in the same folder (so this host's
    clock does not matter) and does not change while we watch (so the owner's clock does not matter
    either, on file systems where it sets the mtime).
    """

    def __init__(self, folder: Path):
        self.directory = folder / LOCK
        self.name = f"{_host()},{os.getpid()},{_process_started(os.getpid())}"
        self.lost = False  # if another process took it over, this one must not write any more
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        while (refused := self._create()) is not None:
            owner = self._owner()
            if owner is None:  # released meanwhile, or something else is in the way
                self._clear_the_way(refused)
                continue
            if not (self._is_stale(owner) and self._stays_silent(owner)):
                raise Locked(_named(owner))
            if self._take_over(owner):
                break
        for path in leftovers(self.directory.parent):
            with suppress(OSError):  # another user's leftovers cannot be removed, and do no harm
                _remove(path)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        (self.directory / self.name).unlink(missing_ok=True)
        with suppress(OSError):  # another process took over the lock or reused the directory
            self.directory.rmdir()

    def check(self) -> None:
        """Check that this process still holds the lock; call it right before each write.

        Raises:
            Locked: another process took it over.
            FileNotFoundError: the folder is gone.
        """
        self.lost = self.lost or not self._is_mine()
        if self.lost:
            self.directory.parent.stat()
            owner = self._owner()
            name = "another process" if owner is None else _named(owner)
            raise Locked(f"{name}, which took over because this one did not respond for too long")

    def _create(self) -> OSError | None:
        """Create the lock; return the error if that fails, as it does if the lock has an owner."""
        prepared = self.directory.with_name(f"{PREPARED}{self.name}")
        try:
            prepared.mkdir(exist_ok=True)
            (prepared / self.name).touch()
            prepared.rename(self.directory)
        except OSError as error:
            # NFS may send a request twice and return the result of the second.
            if not prepared.exists() and (self.directory / self.name).exists():
                return None
            _remove(prepared)
            return error
        return None

    def _clear_the_way(self, refused: OSError) -> None:
        """Remove hidden files, such as a file manager's, from a lock without an owner.

        Raises:
            UserError: `lock` is not a directory, or contains other files.
            OSError: creating the lock failed for another reason; this is `refused`.
        """
        require(
            self._is_folder() is not False,
            f"{self.directory} is a link or a file, but a lock is a folder; delete it",
        )
        if refused.errno not in THERE_IS_ONE:
            raise refused
        for path in (self.directory / name for name in self._names()):
            if path.name.startswith(".") and not path.is_dir():
                path.unlink(missing_ok=True)
            elif not OWNER.fullmatch(path.name):
                raise UserError(f"{path} does not belong in a lock; delete it")

    def _is_folder(self) -> bool | None:
        """Whether `lock` is a folder rather than a link or a file; None if it does not exist."""
        try:
            return stat.S_ISDIR(self.directory.lstat().st_mode)
        except FileNotFoundError:
            return None

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.directory) if self._is_folder() else []
        except FileNotFoundError:
            return []

    def _owner(self) -> str | None:
        return next(filter(OWNER.fullmatch, self._names()), None)

    def _is_mine(self) -> bool:
        try:
            # NFS may look up a single file in its cache, but requests a listing from the server.
            return self.name in os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _is_stale(self, owner: str) -> bool:
        host, pid, started = owner.split(",")
        if host == _host():
            return not _is_alive(int(pid), started)
        now = self.directory.with_name(f"{CLOCK}{self.name}")
        now.touch()
        try:
            age = now.stat().st_mtime - (self.directory / owner).stat().st_mtime
        except FileNotFoundError:
            return False
        finally:
            now.unlink()
        return abs(age) > STALE_SECONDS

    def _stays_silent(self, owner: str) -> bool:
        """Whether an owner on another host misses two and a half heartbeats while we watch."""
        host, _, _ = owner.split(",")
        if host == _host():
            return True
        times = []
        for seconds in (0.0, 2.5 * HEARTBEAT_SECONDS):
            time.sleep(seconds)
            try:
                times.append((self.directory / owner).stat().st_mtime_ns)
            except FileNotFoundError:
                return True  # gone: `_take_over` will fail
        return times[0] == times[1]

    def _take_over(self, owner: str) -> bool:
        theirs, mine = self.directory / owner, self.directory / self.name
        try:
            os.utime(theirs)  # otherwise the renamed file would look stale to the next process
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
            except OSError:  # the file system is not responding; the next heartbeat may work
                continue


def lock_owner(folder: Path) -> str | None:
    """The owner of a folder's lock; None if the lock is free or its owner is dead."""
    lock = Lock(folder)
    owner = lock._owner()
    return None if owner is None or lock._is_stale(owner) else owner


def lock_owner_text(folder: Path) -> str | None:
    """The owner of a folder's lock in readable form; None if it is free or its owner is dead.

    This only reads files, so it needs no write permission. The age of another host's heartbeat is
    measured with this host's clock, which is good enough to display, but not to act on.
    """
    lock = Lock(folder)
    owner = lock._owner()
    try:
        if owner is None or _seems_dead(owner, lock.directory / owner):
            return None
    except FileNotFoundError:  # released meanwhile
        return None
    return _named(owner)


def _seems_dead(owner: str, file: Path) -> bool:
    """Whether the process that created a file seems to be dead, judged by reading alone.

    Raises:
        FileNotFoundError: the file is gone.
    """
    host, pid, started = owner.split(",")
    if host == _host():
        return not _is_alive(int(pid), started)
    return time.time() - file.stat().st_mtime > STALE_SECONDS


def leftovers(folder: Path) -> list[Path]:
    """Lock files that killed processes left in a folder; acquiring its lock removes them."""
    found = []
    for path in sorted(folder.glob(".*")):
        owner = path.name.removeprefix(PREPARED).removeprefix(CLOCK)
        is_ours = owner != path.name and OWNER.fullmatch(owner)
        with suppress(FileNotFoundError):  # its owner, still alive, has just renamed it
            if is_ours and _seems_dead(owner, path):
                found.append(path)
    if lock_owner_text(folder) is None and (lock := Lock(folder))._is_folder():
        found.append(lock.directory)
    return found


def _remove(prepared: Path) -> None:
    """Delete a prepared lock, or a file."""
    if prepared.is_dir() and not prepared.is_symlink():
        for path in prepared.iterdir():
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # its owner has just renamed it
            prepared.rmdir()
    else:
        prepared.unlink(missing_ok=True)
