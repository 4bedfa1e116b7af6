"""Base of kd-bench's launchers: prepares the jobs of a sweep, then runs them in slots."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.config.schema import MISSING, Config
from kd_bench.jobs.job import Job
from kd_bench.sweep.executors.base import Slot
from kd_bench.sweep.retry import DEFAULT, OnError, RetryPolicy
from kd_bench.utils.errors import require, require_installed
from kd_bench.utils.files import json_hash


@dataclass
class SweepConfig:
    """Keys of hydra.launcher shared by all launchers."""

    _target_: str = MISSING  # the plugin
    on_error: OnError = DEFAULT.on_error  # continue: run the other jobs; stop: end the sweep
    retries: int = DEFAULT.retries  # of a job that ran out of memory or whose process was killed


def require_one_or_more(**numbers: int | None) -> None:
    """Refuse numbers below 1, passed by their names in hydra.launcher; None is allowed."""
    for name, number in numbers.items():
        require(
            number is None or number >= 1, f"hydra.launcher.{name} must be 1 or more, got {number}"
        )


def largest(jobs: Sequence[Job]) -> Config:
    """A job's configuration with the maximum number of threads and processes of all jobs.

    Two threads on one core would wait for each other, which is a hundred times slower.
    """
    return replace(
        jobs[0].config,
        threads=max(job.config.threads for job in jobs),
        gpus_per_job=max(job.config.gpus_per_job for job in jobs),
    )


class SweepLauncher(Launcher):
    """Runs all jobs of a sweep in slots, which subclasses provide."""

    library: str | None = None  # an optional dependency that it needs
    extra: str | None = None  # the extra of kd-bench that installs it

    def __init__(self, on_error: OnError, retries: int):
        require(retries >= 0, f"hydra.launcher.retries must be 0 or more, got {retries}")
        self.policy = RetryPolicy(on_error, retries)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the sweep's configuration; Hydra calls this before `launch`."""
        if self.library and self.extra:
            require_installed(self.library, f"hydra/launcher={self.extra}", extra=self.extra)
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; raises `SystemExit` if some failed."""
        if code := self.run(job_overrides):
            sys.exit(code)  # a failed JobReturn would make Hydra print its traceback
        return []

    def run(self, job_overrides: Sequence[Sequence[str]], *, with_table: bool = True) -> int:
        """Run all jobs, print their table if `with_table`, and return the exit code."""
        composed = compose.compose_jobs(job_overrides)
        self.start_loading(composed[0][0])
        # Imported after `start_loading` and not for --help: they import torch, which takes seconds.
        from kd_bench.sweep.display import SweepDisplay
        from kd_bench.sweep.prepare import prepare_jobs
        from kd_bench.sweep.scheduler import run_sweep

        jobs = prepare_jobs(composed)
        slots = self.slots(largest(jobs))
        display = SweepDisplay(len(jobs))
        name = self._name(jobs)
        return run_sweep(jobs, name, slots, display, self.policy, with_table=with_table)

    def start_loading(self, config: Config) -> None:
        """Start loading in the background what jobs such as `config` need."""

    def slots(self, config: Config) -> Sequence[Slot]:
        """Slots for jobs such as `config`, which is that of `largest`."""
        raise NotImplementedError

    def _name(self, jobs: Sequence[Job]) -> str:
        """The name of the sweep's file: its name in conf/sweep and a hash of its jobs.

        After an edit of conf/, the same command may mean other jobs. They get another file, because
        jobs of the first sweep may not have read theirs yet.
        """
        chosen = self.config.hydra.runtime.choices.get("sweep") or "command-line"
        name = chosen.rpartition("/")[2]  # first for conf/sweep/mine/first.yaml
        return f"{name}-{json_hash([job.to_json() for job in jobs], 8)}"
