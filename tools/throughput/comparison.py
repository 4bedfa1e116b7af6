"""Runs candidates in turns, in rounds, so that a slow machine slows all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from kd_bench.jobs.job import Job
from kd_bench.utils import process
from throughput.worker import Worker, WorkerExited


@dataclass
class Candidate:
    """A training loop, run by one process or by several at once."""

    name: str
    kind: str  # see `loops.make_loop`
    job: Job
    processes: int = 1  # training at the same time, each with its own copy of the job
    loader_workers: int = 0  # DataLoader workers of each process
    precision: str | None = None  # for its limits; None: the job's
    starts: list[dict[str, float]] = field(default_factory=list)  # seconds, by process
    rates: list[float] = field(default_factory=list)  # images/s of all processes, by round


def benchmark(
    candidates: Sequence[Candidate],
    rounds: int,
    seconds: float,
    message: Callable[[str], None],
) -> list[Candidate]:
    """Start all candidates, then let each train for some seconds per round; sets starts and rates.

    Args:
        candidates: the first one is the reference for the others.
        rounds: number of rounds.
        seconds: training time of each candidate in a round.
        message: prints a line of progress.

    Returns:
        The candidates that finished; one that fails is reported and left out.

    Raises:
        WorkerExited: the first candidate failed.
    """
    workers: dict[str, list[Worker]] = {}
    remaining = list(candidates)

    def leave_out(candidate: Candidate, error: WorkerExited) -> None:
        if candidate is candidates[0]:
            raise error
        remaining.remove(candidate)
        for worker in workers.pop(candidate.name):
            worker.end()
        message(f"{candidate.name}: left out, {error}")

    try:
        for candidate in candidates:
            # One after the other: processes that start together slow each other down.
            workers[candidate.name] = [_worker(candidate) for _ in range(candidate.processes)]
            try:
                candidate.starts = [worker.answer() for worker in workers[candidate.name]]
                message(f"{candidate.name}: ready after {_start_seconds(candidate):.1f} s")
            except WorkerExited as error:
                leave_out(candidate, error)
        for number in range(rounds):
            first = number % len(remaining)  # rotate, so that no candidate always follows the same
            for candidate in (*remaining[first:], *remaining[:first]):
                try:
                    candidate.rates.append(_rate(workers[candidate.name], seconds))
                except WorkerExited as error:
                    leave_out(candidate, error)
            rates = ", ".join(f"{c.name} {c.rates[-1]:,.0f}" for c in remaining)
            message(f"round {number + 1}, images/s: {rates}")
        return remaining
    finally:
        for group in workers.values():
            for worker in group:
                worker.end()


def _worker(candidate: Candidate) -> Worker:
    environment = os.environ | process.job_environment(candidate.job.config.threads)
    return Worker(candidate.kind, candidate.job, candidate.loader_workers, environment)


def _rate(workers: Sequence[Worker], seconds: float) -> float:
    for worker in workers:
        worker.train(seconds)
    answers = [worker.answer() for worker in workers]
    return sum(answer["images"] / answer["seconds"] for answer in answers)


def _start_seconds(candidate: Candidate) -> float:
    return max(start["import"] + start["prepare"] for start in candidate.starts)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another candidate: median and range over the rounds."""

    median: float
    low: float
    high: float


def speed_ratio(candidate: Candidate, other: Candidate) -> Ratio:
    """Computed per round, so that whatever slowed a whole round cancels out."""
    pairs = zip(candidate.rates, other.rates, strict=True)
    ratios = [rate / other_rate for rate, other_rate in pairs]
    return Ratio(median(ratios), min(ratios), max(ratios))
