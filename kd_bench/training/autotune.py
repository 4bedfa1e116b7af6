"""speed=fast: what pays is found out before the first epoch, by taking a few steps each way."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from kd_bench.training import execution
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.execution import Execution
from kd_bench.training.setup import TrainingSetup, phases

STEPS = 10
# Compiling takes a minute or two and gains a fifth or so: nothing to try out for a short job.
WORTH_TRYING = 600.0  # seconds that the job would take without


def choose(job: TrainingSetup) -> dict[str, Any]:
    """What is compiled, and whether cuDNN tries out its algorithms; leaves the job as it was.

    Returns:
        Values for the configuration's `chosen`.
    """
    autotuned = job.device.type == "cuda"
    plain = replace(job.execution, compiled=False, autotuned=autotuned)
    seconds = {False: seconds_per_step(job, plain)}
    steps = sum(phase.epochs for phase in phases(job)) * len(job.step_sizes)
    if seconds[False] * steps > WORTH_TRYING and not job.method.needs_input_gradients:
        seconds[True] = seconds_per_step(job, replace(plain, compiled=True))
    return {"compiled": min(seconds, key=seconds.get), "autotuned": autotuned}


def seconds_per_step(job: TrainingSetup, how: Execution, steps: int = STEPS) -> float:
    """How long a step of the main stage takes if it is executed so; nothing is learnt."""
    execution.configure_torch(how)
    tried = replace(job, execution=how)
    with EpochRunner(tried, phases(job)[-1]).rehearsal() as step:
        step()  # compiles, records
        _wait(job)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(job)
    return (time.perf_counter() - started) / steps


def _wait(job: TrainingSetup) -> None:
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)
