"""A job that ends in the middle, and what it must have once it has gone on to its end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kd_bench.jobs.job import Job
from kd_bench.jobs.runner import NullReporter, run_with_teacher


class _Stop(Exception):  # noqa: N818
    """Ends a job."""


class _StopAfter(NullReporter):
    """Ends a job, as an error would, after an epoch; its teacher is left alone."""

    def __init__(self, epoch: int, label: str):
        self.last, self.label = epoch, label

    def start(self, label, epochs):
        self.is_meant = label == self.label

    def epoch(self, row, timing):
        if self.is_meant and row["epoch"] == self.last:
            raise _Stop


def interrupt(job: Job, after: int = 1) -> None:
    """Train a job's teacher, and the job itself to the end of an epoch."""
    shutil.rmtree(job.path, ignore_errors=True)  # the chain of another job may have trained it
    with pytest.raises(_Stop):
        run_with_teacher(job, _StopAfter(after, job.label))


def has_equal_bits(one: Path, other: Path) -> bool:
    """Whether two folders of finished jobs have the same history and weights."""
    mine, theirs = (torch.load(each / "weights.pt", weights_only=True) for each in (one, other))
    return (
        (one / "history.csv").read_text() == (other / "history.csv").read_text()
        and mine.keys() == theirs.keys()
        and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    )
