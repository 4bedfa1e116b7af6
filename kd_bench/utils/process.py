"""A job's process around PyTorch: cores, threads, memory that is free, and memory that is kept."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
from pathlib import Path

from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize

# Parameters of glibc's mallopt(3) and their values. A training step frees hundreds of megabytes
# and allocates them again at once; by default, glibc returns much of that to the system each time,
# which then clears every page again. So memory is kept, except for blocks above 32 MiB, the
# largest threshold that glibc accepts.
MEMORY = {
    "M_MMAP_THRESHOLD": (-3, 2**25),
    "M_TRIM_THRESHOLD": (-1, -1),  # never
}

CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_threads(threads: int) -> None:
    """Refuse more threads than cores that this process may use: they would only wait.

    Raises:
        UserError: with the number of cores.
    """
    cores = core_count()
    require(
        threads <= cores,
        f"threads={threads}: this process may use {pluralize(cores, 'core')} of this machine;"
        f" choose threads={cores} or fewer",
    )


def job_environment(threads: int) -> dict[str, str]:
    """Environment variables of a job's process, which libraries read when they are loaded."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def keep_memory() -> bool:
    """Make this process keep the memory that it frees; results do not change.

    Returns:
        Whether it does: not with settings of your own (GLIBC_TUNABLES, MALLOC_...), nor with
        another C library.
    """
    if any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(number, value) == 1 for number, value in MEMORY.values())


def trace_crashes() -> None:
    """If a library crashes this process, print where Python was to the standard error stream."""
    if sys.__stderr__ is not None:  # closed by whoever started the process
        faulthandler.enable(sys.__stderr__)


def available_memory() -> int | None:
    """Bytes that can be used without swapping, in this container if it has a limit.

    None where the system does not say.
    """
    found = [each for each in (_of_system(), _of_container()) if each is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    return _value(Path("/proc/meminfo"), "MemAvailable:", unit=1024)


def _of_container() -> int | None:
    """The limit, less what is in use and cannot be dropped; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
    return limit - used + (_value(CGROUP / "memory.stat", "inactive_file") or 0)


def _value(path: Path, name: str, unit: int = 1) -> int | None:
    """The number behind a name in a file of such lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = (line.split() for line in lines)
    return next((int(each[1]) * unit for each in words if each[:1] == [name]), None)
