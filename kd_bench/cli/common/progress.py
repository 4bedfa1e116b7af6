"""Shows one job while it runs: a progress bar or lines, and a line when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from kd_bench.results.record import Record
from kd_bench.sweep.display import accuracy_text, console
from kd_bench.utils.text.escape import printable

LINE_SECONDS = 30.0  # minimum time between two lines about a job, without a terminal


def progress_bar(out: Console) -> Progress:
    """A progress bar of epochs with a short text and the time left; only in a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out, disable=not out.is_terminal, transient=True)


class JobDisplay:
    """The `Reporter` of a single job and of its teachers' jobs.

    Without a terminal, as in a log file, lines about epochs replace the bar.
    """

    def __init__(self) -> None:
        self.console = console()
        self._label, self._epochs, self._last_line = "", 0, 0.0
        self._bar = progress_bar(self.console)
        self._task = self._bar.add_task("", total=None, words="", visible=False)

    def __reduce__(self) -> tuple[type[JobDisplay], tuple[()]]:
        """Pickle as a new display, for a child process that runs the job in the same terminal."""
        return JobDisplay, ()

    def message(self, text: str) -> None:
        """Print a line."""
        self.console.print(printable(text))

    def start(self, label: str, epochs: int) -> None:
        """Show a job's bar."""
        self._label, self._epochs, self._last_line = label, epochs, time.monotonic()
        self._bar.reset(
            self._task, total=epochs, description=printable(label), words="", visible=True
        )
        self._bar.start()

    def epoch(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Move the bar to an epoch, or print a line about it."""
        words = epoch_text(row, timing)
        self._bar.update(self._task, completed=row["epoch"], words=words)
        is_due = time.monotonic() - self._last_line >= LINE_SECONDS
        if is_due and not self.console.is_terminal:
            self._last_line = time.monotonic()
            self.message(f"{self._label}: epoch {row['epoch']}/{self._epochs} {words}")

    def finish(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def result(self, label: str, record: Record, trained: bool) -> None:
        """Print a job's accuracy, and whether it had already been trained."""
        verb = "done" if trained else "already done, nothing to train"
        self.message(f"{label}: {verb}: {accuracy_text(record)}")


def epoch_text(row: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """An epoch as short text: 93.4 % 5,210 images/s."""
    return f"{row['test_accuracy']:.2f} % {timing['images_per_second']:,.0f} images/s"
