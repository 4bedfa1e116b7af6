"""What a sweep does when a job fails: retry it, continue with others, or stop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kd_bench.utils.errors import ProcessLost

OnError = Enum("OnError", ["continue", "stop"])  # functional: `continue` is a keyword

# Prefixes of out-of-memory errors; PyTorch has an exception class only for GPU memory.
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "RuntimeError: [enforce fail at alloc_cpu")
LOST = ProcessLost.__name__  # one of several processes of a job was killed


@dataclass(frozen=True)
class RetryPolicy:
    """`hydra.launcher.on_error` and `hydra.launcher.retries`."""

    on_error: OnError = OnError["continue"]
    retries: int = 0  # per job

    @property
    def stops(self) -> bool:
        """Whether the first failure ends the sweep."""
        return self.on_error is OnError.stop

    def should_retry(self, reason: str, *, lost: bool, tried: int) -> bool:
        """Whether to retry a failed job: only if another attempt may succeed.

        Args:
            reason: the first line of the job's error.
            lost: its process was killed by a signal that the sweep did not send.
            tried: number of retries so far.
        """
        return tried < self.retries and (lost or reason.startswith((*OUT_OF_MEMORY, LOST)))


DEFAULT = RetryPolicy()  # continue after failures, without retries
