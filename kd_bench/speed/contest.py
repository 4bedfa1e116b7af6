"""Contestants take turns, round after round, so that what slows the machine slows them all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kd_bench import environment
from kd_bench.speed.worker import Worker


@dataclass
class Contestant:
    """A loop, or several of one kind at once."""

    name: str
    kind: str  # as `loops.make` has it
    config: Mapping[str, Any]
    jobs: int = 1  # processes that train at the same time, each a job of its own
    workers: int = 0  # processes that load images, of each
    starts: list[dict[str, float]] = field(default_factory=list)  # seconds, of each process
    rates: list[float] = field(default_factory=list)  # images/s of all together, by round

    def environment(self) -> dict[str, str]:
        """Of its processes: kd-bench's own as a job has it, another loop's as a shell has it."""
        own = environment.for_job(self.config["threads"])
        if not self.kind.startswith("ours"):
            own.pop("GLIBC_TUNABLES")
        return os.environ | own


def compete(
    contestants: Sequence[Contestant], rounds: int, seconds: float, say: Callable[[str], None]
) -> None:
    """Start all, then let each train for some seconds, in turns; fills in starts and rates."""
    processes: dict[str, list[Worker]] = {}
    try:
        for each in contestants:
            # One after the other: what starts at once is slowed by the others' starts.
            made = (each.kind, each.config, each.workers, each.environment())
            processes[each.name] = [Worker(*made) for _ in range(each.jobs)]
            each.starts = [worker.answer() for worker in processes[each.name]]
            say(f"{each.name}: ready after {_seconds(each):.1f} s")
        for number in range(rounds):
            start = number % len(contestants)  # so that none always follows the same other one
            for each in (*contestants[start:], *contestants[:start]):
                each.rates.append(_rate(processes[each.name], seconds))
            told = (f"{each.name} {each.rates[-1]:,.0f}" for each in contestants)
            say(f"round {number + 1}, images/s: {', '.join(told)}")
    finally:
        for workers in processes.values():
            for worker in workers:
                worker.end()


def _rate(workers: Sequence[Worker], seconds: float) -> float:
    for worker in workers:
        worker.go(seconds)
    answers = [worker.answer() for worker in workers]
    return sum(answer["images"] / answer["seconds"] for answer in answers)


def _seconds(contestant: Contestant) -> float:
    return max(start["import"] + start["prepare"] for start in contestant.starts)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another: median and range over the rounds."""

    median: float
    low: float
    high: float


def ratio(contestant: Contestant, other: Contestant) -> Ratio:
    """Round by round, so that what a whole round suffered from cancels out."""
    ratios = [mine / theirs for mine, theirs in zip(contestant.rates, other.rates, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
