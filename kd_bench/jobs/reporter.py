"""What is told about a job while it runs."""

from __future__ import annotations

from kd_bench.training.loop import Row


class Quiet:
    """Shows nothing of a job; the interface of whatever shows something."""

    def say(self, text: str) -> None:
        """A line about a job."""

    def begin(self, label: str, epochs: int) -> None:
        """A job's training begins, or goes on."""

    def epoch(self, row: Row, timing: Row) -> None:
        """An epoch is over."""

    def end(self) -> None:
        """A job's training is over."""


QUIET = Quiet()
