"""Functions that tests run in the processes of a job, which import them by name."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.errors import require


class WholeBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes: SyncBatchNorm for CPUs."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return super().forward(self.ranks.gather(x)).chunk(self.ranks.size)[self.ranks.rank]


def make_comparable(setup: TrainingSetup) -> None:
    """Make the networks compute what a single process would, in double precision.

    In single precision, rounding errors of the split sums grow from step to step.
    """
    for net in (setup.student, setup.teacher.network):
        net.register_forward_pre_hook(lambda module, inputs: inputs[0].double())
        for module in (net, setup.method):
            module.double()
    for module in setup.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm
            module.ranks = setup.ranks


Trained = tuple[list[float], list[list[Tensor]]]


def train_all(ranks: Ranks, jobs: list[Job]) -> list[Trained]:
    """Train jobs whose teachers are trained."""
    return [train_steps(ranks, job) for job in jobs]


def train_steps(ranks: Ranks, job: Job) -> Trained:
    """The total loss of each step, and each of the method's buffers as every process has it."""
    torch.set_num_threads(1)
    setup = assemble_setup(job, torch.device("cpu"), ranks=ranks)
    make_comparable(setup)
    totals = []
    for phase in phases(setup):
        runner = EpochRunner(setup, phase)
        for epoch in range(1, phase.epochs + 1):
            images = total = 0.0
            for size in runner.steps(epoch):
                before, images = (images, total), images + size
                total = images * runner.tally.means(epoch, ranks)["total"]
                totals.append((total - before[1]) / (images - before[0]))
            # The synchronization that `run` does here is left out: processes must agree without it.
    buffers = [ranks.gather(buffer[None]) for buffer in setup.method.buffers()]
    return totals, [list(each.cpu()) for each in buffers]


def place(ranks: Ranks) -> tuple[int, int, float]:
    """The rank of the process, the number of processes, and the sum of rank + 1 over all."""
    return ranks.rank, ranks.size, ranks.gather(torch.tensor([1.0 + ranks.rank])).sum().item()


def second_one_fails(ranks: Ranks, how: str) -> None:
    """Make the second process fail while the first one waits for it."""
    impatient = distributed.new_group(timeout=timedelta(seconds=1)) if how == "hung" else None
    if not ranks.is_first:
        require(how != "mistake", "the second one refuses")
        if how == "bug":
            raise LookupError("no such thing. " * 100_000)  # more than a pipe holds
        if how == "hung":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.zeros(1), group=impatient)


def second_one_is_lost(ranks: Ranks, folder: Path) -> None:
    """Kill the second process; the first one then writes a file when it is terminated."""
    waiting = folder / "waiting"
    if not ranks.is_first:
        while not waiting.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        waiting.touch()
        time.sleep(600)
    finally:
        (folder / "released").touch()


def wait_for_ever(ranks: Ranks, folder: Path) -> None:
    """Ignore warnings of a time limit, write a file named after the process id, and wait."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    (folder / f"{os.getpid()}").touch()
    while True:
        signal.pause()
