"""Contestants take turns, round after round, so that what slows the machine slows them all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kd_bench.utils import process
from throughput.worker import Worker, WorkerExited


@dataclass
class Candidate:
    """A loop, or several of one kind at once."""

    name: str
    kind: str  # as `loops.make` has it
    config: Mapping[str, Any]
    jobs: int = 1  # processes that train at the same time, each a job of its own
    workers: int = 0  # processes that load images, of each
    precision: str | None = None  # of its limits, where it is not its job's
    starts: list[dict[str, float]] = field(default_factory=list)  # seconds, of each process
    rates: list[float] = field(default_factory=list)  # images/s of all together, by round


def benchmark(
    contestants: Sequence[Candidate], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Candidate]:
    """Start all, then let each train for some seconds, in turns; fills in starts and rates.

    Returns:
        Those that lasted; one that fails is named and left out.

    Raises:
        Ended: the first of them fails, which the others are compared with.
    """
    processes: dict[str, list[Worker]] = {}
    field = list(contestants)

    def leave_out(each: Candidate, error: WorkerExited) -> None:
        if each is contestants[0]:
            raise error
        field.remove(each)
        for worker in processes.pop(each.name):
            worker.end()
        say(f"{each.name}: left out, {error}")

    try:
        for each in contestants:
            # One after the other: what starts at once is slowed by the others' starts.
            own = os.environ | process.job_environment(each.config["threads"])
            made = (each.kind, each.config, each.workers, own)
            processes[each.name] = [Worker(*made) for _ in range(each.jobs)]
            try:
                each.starts = [worker.answer() for worker in processes[each.name]]
                say(f"{each.name}: ready after {_seconds(each):.1f} s")
            except WorkerExited as error:
                leave_out(each, error)
        for number in range(rounds):
            start = number % len(field)  # so that none always follows the same other one
            for each in (*field[start:], *field[:start]):
                try:
                    each.rates.append(_rate(processes[each.name], seconds))
                except WorkerExited as error:
                    leave_out(each, error)
            told = (f"{each.name} {each.rates[-1]:,.0f}" for each in field)
            say(f"round {number + 1}, images/s: {', '.join(told)}")
        return field
    finally:
        for workers in processes.values():
            for worker in workers:
                worker.end()


def _rate(workers: Sequence[Worker], seconds: float) -> float:
    for worker in workers:
        worker.go(seconds)
    answers = [worker.answer() for worker in workers]
    return sum(answer["images"] / answer["seconds"] for answer in answers)


def _seconds(contestant: Candidate) -> float:
    return max(start["import"] + start["prepare"] for start in contestant.starts)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another: median and range over the rounds."""

    median: float
    low: float
    high: float


def ratio(contestant: Candidate, other: Candidate) -> Ratio:
    """Round by round, so that what a whole round suffered from cancels out."""
    ratios = [mine / theirs for mine, theirs in zip(contestant.rates, other.rates, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
