"""Exit codes and environment variables shared by a sweep and the processes of its jobs."""

from __future__ import annotations

# Exit codes; 0 means that the job is finished.
LOCKED_ELSEWHERE = 75  # another process is running the job
INTERRUPTED = 130  # by Ctrl-C, or by a sweep that is stopping

# Environment variables.
PARENT = "KD_BENCH_PARENT"  # PID of the process whose end also ends the job
CORES = "KD_BENCH_CORES"  # the cores that the job is pinned to, comma-separated
