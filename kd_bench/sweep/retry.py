"""What a sweep does about jobs that fail: go on or stop, and which of them it tries again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

OnError = Enum("OnError", ["continue", "stop"])  # `continue` cannot be written as an attribute

# How PyTorch and Python begin to say so; PyTorch has a class for it on a GPU only.
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "RuntimeError: [enforce fail at alloc_cpu")


@dataclass(frozen=True)
class RetryPolicy:
    """`hydra.launcher.on_error` and `hydra.launcher.retries`."""

    on_error: OnError = OnError["continue"]
    retries: int = 0  # of one job

    @property
    def stops(self) -> bool:
        """Whether the first failure ends the sweep."""
        return self.on_error is OnError.stop

    def should_retry(self, reason: str, *, lost: bool, tried: int) -> bool:
        """Whether a job that failed gets another chance: only where luck may have been at fault.

        Args:
            reason: the first line of the job's error.
            lost: its process was killed by a signal that the sweep did not send.
            tried: how many chances it had beyond the first.
        """
        return tried < self.retries and (lost or reason.startswith(OUT_OF_MEMORY))


DEFAULT = RetryPolicy()  # past all failures, and none is tried again
