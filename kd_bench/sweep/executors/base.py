"""Interface between a sweep and an executor: slots, and the processes that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """The process of a job, on this or another machine."""

    def poll(self) -> int | None:
        """None while it runs, then its exit code: minus the signal's number if it was killed."""

    def signal(self, number: int) -> None:
        """Send it a signal if it is still running."""

    def reason(self) -> str | None:
        """Why it ended without a result; None if only the exit code is known."""


class Slot(Protocol):
    """A place for one job at a time; hashable, and equal to no other slot."""

    @property
    def name(self) -> str:
        """The name to display."""

    def start(self, file: Path, number: int, log: Path) -> Process:
        """Start job `number` of a sweep's file; its output is appended to `log`."""
