"""Interrupts a job after an epoch, and compares the finished job with an uninterrupted one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from kd_bench.jobs.job import Job
from kd_bench.jobs.runner import NullReporter, run_with_teacher


class _Stop(Exception):  # noqa: N818
    """Interrupts a job."""


class _StopAfter(NullReporter):
    """Interrupts a job after an epoch, as an error would; its teacher trains to the end."""

    def __init__(self, epoch: int, label: str):
        self.last, self.label = epoch, label

    def start(self, label, epochs):
        self.is_meant = label == self.label

    def epoch(self, row, timing):
        if self.is_meant and row["epoch"] == self.last:
            raise _Stop


def interrupt(job: Job, after: Iterable[int] = (1,)) -> None:
    """Train a job's teacher, and the job itself, interrupted after each of the epochs `after`."""
    shutil.rmtree(job.path, ignore_errors=True)  # another job's chain may have trained it
    for epoch in after:
        with pytest.raises(_Stop):
            run_with_teacher(job, _StopAfter(epoch, job.label))


def has_equal_bits(one: Path, other: Path) -> bool:
    """Whether two finished jobs have equal histories and weights."""
    mine, theirs = (torch.load(each / "weights.pt", weights_only=True) for each in (one, other))
    return (
        (one / "history.csv").read_text() == (other / "history.csv").read_text()
        and mine.keys() == theirs.keys()
        and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    )
