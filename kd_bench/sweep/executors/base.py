"""What a sweep needs from a place where jobs run: slots, and the processes they start."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """The process of a job, here or on another machine."""

    def poll(self) -> int | None:
        """None while it runs, then its exit code: minus the signal's number if it was killed."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""

    def reason(self) -> str | None:
        """Why it ended without a result, if the executor knows more than the exit code says."""


class Slot(Protocol):
    """A place for one job at a time; hashable, and equal to no other slot."""

    @property
    def name(self) -> str:
        """What a display calls it."""

    def start(self, file: Path, number: int, log: Path) -> Process:
        """Start job `number` of a sweep's file; its output is appended to `log`."""
