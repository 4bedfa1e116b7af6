"""What a person sees while one job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kd_bench.sweep.display import accuracy_text, console

if TYPE_CHECKING:
    pass


def progress_bar(to: Console) -> Progress:
    """A bar with what is done, a few words, and the time left; nothing without a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=to, disable=not to.is_terminal, transient=True)


class JobDisplay:
    """A bar over the epochs of a job, and a line when it is done."""

    def __init__(self):
        self.console = console()
        self._bar: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def begin(self, label: str, epochs: int) -> None:
        """Show a job's bar."""
        self._bar = progress_bar(self.console)
        self._task = self._bar.add_task(label, total=epochs, words="")
        self._bar.start()

    def epoch(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Move the bar to an epoch."""
        self._bar.update(self._task, completed=row["epoch"], words=epoch_text(row, timing))

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def result(self, label: str, record: Mapping[str, Any], trained: bool) -> None:
        """A job's number, and whether it had been trained before."""
        verb = "done" if trained else "done already, nothing to train"
        self.say(f"{label}: {verb}: {accuracy_text(record)}")


def epoch_text(row: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """An epoch in a few words: 93.4 % 5,210 images/s."""
    return f"{row['test_accuracy']:.2f} % {timing['images_per_second']:,.0f} images/s"
