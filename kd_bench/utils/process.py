"""Process settings of a job: cores, threads, memory allocation, and available memory."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
from pathlib import Path

from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize

# Parameters of glibc's mallopt(3) and their values. A training step frees hundreds of megabytes
# and allocates them again at once. By default, glibc returns much of that to the system each time,
# and the kernel has to zero every page again. So the process keeps freed memory, except for blocks
# above 32 MiB, the largest threshold that glibc accepts.
MEMORY = {
    "M_MMAP_THRESHOLD": (-3, 2**25),
    "M_TRIM_THRESHOLD": (-1, -1),  # never
}

CGROUP = Path("/sys/fs/cgroup")  # cgroup v2, as seen inside a container


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_threads(threads: int) -> None:
    """Check that there are no more threads than cores that this process may use.

    Raises:
        UserError: there are more; the message has the number of cores.
    """
    cores = core_count()
    require(
        threads <= cores,
        f"threads={threads}: this process may use {pluralize(cores, 'core')} of this machine;"
        f" choose threads={cores} or fewer",
    )


def job_environment(threads: int) -> dict[str, str]:
    """Environment variables of a job's process; libraries read them when they are loaded."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def keep_memory() -> bool:
    """Make this process keep the memory that it frees; results do not change.

    Returns:
        Whether it does: False if the user has set GLIBC_TUNABLES or MALLOC_..., or if the C
        library is not glibc.
    """
    if any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(number, value) == 1 for number, value in MEMORY.values())


def trace_crashes() -> None:
    """Print the Python traceback to standard error if a library crashes this process."""
    if sys.__stderr__ is not None:  # None if the parent process closed it
        faulthandler.enable(sys.__stderr__)


def available_memory() -> int | None:
    """Bytes that can be used without swapping, within the container's limit if there is one.

    None if the system does not report it.
    """
    found = [each for each in (_of_system(), _of_container()) if each is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    return _value(Path("/proc/meminfo"), "MemAvailable:", unit=1024)


def _of_container() -> int | None:
    """The container's limit minus used memory that cannot be reclaimed; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None
    return limit - used + (_value(CGROUP / "memory.stat", "inactive_file") or 0)


def _value(path: Path, name: str, unit: int = 1) -> int | None:
    """The number after `name` in a file with lines of the form "name number"."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = (line.split() for line in lines)
    return next((int(each[1]) * unit for each in words if each[:1] == [name]), None)
