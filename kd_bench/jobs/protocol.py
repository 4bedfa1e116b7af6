"""What a sweep and the processes of its jobs agree on: exit codes and environment variables."""

from __future__ import annotations

# Exit codes; 0 means that the result is there.
FAILED = 1
LOCKED_ELSEWHERE = 75  # another process is running the job
INTERRUPTED = 130  # by Ctrl-C, or by a sweep that ends

# Environment variables.
PARENT = "KD_BENCH_PARENT"  # the id of the process that the job ends with
CORES = "KD_BENCH_CORES"  # the cores that the job is pinned to, separated by commas
