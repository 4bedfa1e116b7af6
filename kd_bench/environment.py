"""The environment that a job's process starts in: its threads, and how memory is asked for."""

from __future__ import annotations

import os

# A training step frees hundreds of megabytes and asks for as many at once. As glibc comes, much
# of that goes back to the system each time, which then clears every page again. So memory is
# kept, but for blocks above 32 MiB (the largest limit that glibc takes), and lies in huge pages
# where the system lends them. Other C libraries ignore this.
MEMORY = {
    "hugetlb": 1,
    "mmap_threshold": 2**25,
    "trim_threshold": 2**40,
    "top_pad": 2**26,
}


def for_job(threads: int) -> dict[str, str]:
    """Variables for the process of a job with so many threads; none changes a result.

    Your own GLIBC_TUNABLES, where you have any, stay as they are.
    """
    memory = ":".join(f"glibc.malloc.{name}={value}" for name, value in MEMORY.items())
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", memory),
    }
