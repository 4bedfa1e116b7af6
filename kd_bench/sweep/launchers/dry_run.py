"""The launcher of `kd-bench plan`: it shows what a sweep would do, and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn

from kd_bench.config import compose
from kd_bench.sweep.launchers.base import largest
from kd_bench.sweep.launchers.local import LocalConfig, LocalLauncher
from kd_bench.sweep.retry import OnError


@dataclass
class DryRunConfig(LocalConfig):
    """hydra.launcher of `hydra/launcher=dry_run`; values of other launchers may be added to it."""

    _target_: str = "hydra_plugins._kd_bench_launchers.DryRunLauncher"
    instead_of: str = "local"  # the launcher that would run the jobs


class DryRunLauncher(LocalLauncher):
    """Shows what another launcher would run."""

    def __init__(
        self,
        instead_of: str,
        jobs_per_gpu: int,
        jobs_at_once: int | None,
        on_error: OnError,
        retries: int,
        **_others: Any,
    ):
        super().__init__(jobs_per_gpu, jobs_at_once, on_error, retries)
        self.instead_of = instead_of

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Print the plan."""
        # These import torch, which takes seconds: not for --help.
        from kd_bench.sweep.dry_run import print_plan
        from kd_bench.sweep.prepare import prepare_jobs

        jobs = prepare_jobs(compose.compose_jobs(job_overrides))
        is_local = self.instead_of == "local"
        print_plan(jobs, len(self.slots(largest(jobs))) if is_local else None)
        return []
