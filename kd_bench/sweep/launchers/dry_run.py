"""The launcher of `kd-bench plan`: shows what another launcher would run, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.jobs.job import Job
from kd_bench.sweep.launchers.base import SweepConfig, largest
from kd_bench.sweep.launchers.local import LocalLauncher

TARGET = "hydra_plugins._kd_bench_launchers.DryRunLauncher"


def dry_run_config(config: type[SweepConfig]) -> type:
    """The settings of a launcher, adapted to the launcher that shows what it would run."""
    changes = [("_target_", str, TARGET), ("_instead_of_", str, config._target_)]
    return make_dataclass(f"DryRun{config.__name__}", changes, bases=(config,))


class DryRunLauncher(Launcher):
    """Shows what another launcher would run.

    Args:
        _instead_of_: path of the other launcher's class.
        settings: of the other launcher, which checks them.
    """

    def __init__(self, _instead_of_: str, **settings: Any):
        self.launcher = get_class(_instead_of_)(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Do nothing: the other launcher's libraries are not needed."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Print the plan."""
        from kd_bench.sweep.prepare import prepare_jobs  # not for --help: imports torch

        self.show(prepare_jobs(compose.compose_jobs(job_overrides)))
        return []

    def show(self, jobs: Sequence[Job]) -> None:
        """Print the plan of some jobs, as from `prepare_jobs`."""
        from kd_bench.sweep.dry_run import print_plan

        is_local = isinstance(self.launcher, LocalLauncher)
        print_plan(jobs, len(self.launcher.slots(largest(jobs))) if is_local else None)
