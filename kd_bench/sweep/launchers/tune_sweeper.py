"""The sweeper of `kd-bench tune`: runs trials, chooses the best, and reruns it with all images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn

from kd_bench.sweep.launchers.base import SweepLauncher
from kd_bench.sweep.launchers.dry_run import DryRunLauncher
from kd_bench.sweep.launchers.grid_sweeper import GridConfig, GridSweeper
from kd_bench.utils.errors import UserError, require

SEED = "seed"


@dataclass
class TuneConfig(GridConfig):
    """hydra.sweeper of `hydra/sweeper=tune`."""

    _target_: str = "hydra_plugins._kd_bench_launchers.TuneSweeper"
    trials: int = 5  # per study
    studies: int = 3  # with seeds 0, 1, ..., which determine the points and are those of the runs
    validation: int | None = None  # images held out in trials; None: a fifth of the training images


class TuneSweeper(GridSweeper):
    """Tunes each job of a grid, with one seed per study."""

    def __init__(self, params: dict[str, Any], trials: int, studies: int, validation: int | None):
        for name, number in {
            "trials": trials,
            "studies": studies,
            "validation": validation,
        }.items():
            require(number is None or number >= 1, f"{name} must be 1 or more, got {number}")
        super().__init__({**params, SEED: ",".join(map(str, range(studies)))})
        self.trials, self.studies, self.validation = trials, studies, validation

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the trials of all studies, then each job with the published and the best values."""
        if any(each.partition("=")[0] == SEED for each in arguments):
            last = self.studies - 1
            raise UserError(f"studies={self.studies} has the seeds 0 to {last}; leave out {SEED}=")
        if not isinstance(self.launcher, SweepLauncher | DryRunLauncher):
            raise UserError("kd-bench tune needs hydra/launcher=local, slurm or ray")
        # Not imported for --help: it imports torch, which takes seconds.
        from kd_bench.sweep.tuning import Tuning

        tuning = Tuning(self.combinations(arguments), self.trials, self.validation)
        if isinstance(self.launcher, DryRunLauncher):
            self.launcher.show(tuning.planned())
            return []
        code = self.launcher.run(tuning.trials, with_table=False)
        if (studies := tuning.studies()) is None:
            sys.exit(code)
        runs = [*tuning.jobs, *tuning.chosen(studies)]
        return [self.launcher.launch(runs, initial_job_idx=0)]
