"""What a job's process has around PyTorch: its threads, and memory that it keeps."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt(3) and their values. A training step frees hundreds of megabytes
# and asks for as many at once; as glibc comes, much of that goes back to the system each time,
# which then clears every page again. So memory is kept, but for single blocks above 32 MiB, the
# largest limit that glibc takes.
MEMORY = {
    "M_MMAP_THRESHOLD": (-3, 2**25),
    "M_TRIM_THRESHOLD": (-1, -1),  # never
}


def job_environment(threads: int) -> dict[str, str]:
    """Variables for the process of a job with so many threads, read as libraries are loaded."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def keep_memory() -> bool:
    """Have this process keep the memory that it frees; it changes no result.

    Returns:
        Whether it will: not with settings of your own (GLIBC_TUNABLES, MALLOC_...), nor with
        another C library.
    """
    if any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(number, value) == 1 for number, value in MEMORY.values())
