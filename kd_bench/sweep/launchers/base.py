"""What Hydra's launchers of this project share: a sweep's jobs are frozen, then run in slots."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.config.schema import Config
from kd_bench.sweep.retry import DEFAULT, OnError, RetryPolicy
from kd_bench.utils.errors import require

if TYPE_CHECKING:
    from kd_bench.jobs.job import Job
    from kd_bench.sweep.executors.local import Slot


@dataclass
class SweepConfig:
    """What hydra.launcher has in every kind of place."""

    on_error: OnError = DEFAULT.on_error  # continue: the other jobs go on; stop: they do not
    retries: int = DEFAULT.retries  # of a job that ran out of memory or whose process was lost


def require_one_or_more(**numbers: int | None) -> None:
    """Refuse numbers below 1, by their names in hydra.launcher; None leaves it to others."""
    for name, number in numbers.items():
        require(
            number is None or number >= 1, f"hydra.launcher.{name} must be 1 or more, got {number}"
        )


class SweepLauncher(Launcher):
    """Runs all jobs of a sweep in the slots of one kind of place."""

    library: str | None = None  # that the place needs, and the extra that installs it
    extra: str | None = None

    def __init__(self, on_error: OnError, retries: int):
        require(retries >= 0, f"hydra.launcher.retries must be 0 or more, got {retries}")
        self.policy = RetryPolicy(on_error, retries)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the sweep's configuration; Hydra calls this before `launch`."""
        require(
            self.library is None or importlib.util.find_spec(self.library) is not None,
            f"hydra/launcher={self.extra} needs {self.library}, which is not installed:"
            f' pip install "kd-bench[{self.extra}]"',
        )
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; leaves with an exit code where some failed."""
        composed = compose.compose_jobs(job_overrides)
        self.prepare(composed[0][0])
        from kd_bench.sweep.display import SweepDisplay
        from kd_bench.sweep.prepare import prepare_jobs
        from kd_bench.sweep.scheduler import run_sweep  # imports torch, which --help does without

        jobs = prepare_jobs(composed)
        places = self.slots(jobs[0].config)
        show = SweepDisplay(len(jobs))
        name = self._name(jobs)
        if code := run_sweep(jobs, name, places, show, self.policy):
            sys.exit(code)  # a failed JobReturn would make Hydra print its traceback
        return []

    def prepare(self, config: Config) -> None:
        """Begin what takes a while and can go on as jobs such as `config` are being checked."""

    def slots(self, config: Config) -> Sequence[Slot]:
        """Places for jobs such as `config`, one of the sweep's."""
        raise NotImplementedError

    def _name(self, jobs: Sequence[Job]) -> str:
        """What the frozen sweep is called: its file of conf/, and a digest of its jobs.

        The same command may mean other jobs once conf/ was edited; those of a sweep that is still
        at work, or whose jobs wait in a queue, stay as they are.
        """
        chosen = self.config.hydra.runtime.choices.get("sweep")
        text = json.dumps([job.to_json() for job in jobs], sort_keys=True)
        return f"{chosen or 'command-line'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
