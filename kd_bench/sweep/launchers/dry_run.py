"""Hydra's launcher that launches nothing: it composes a sweep's jobs and shows what is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn

from kd_bench.config import compose
from kd_bench.sweep.launchers.local import LocalConfig, LocalLauncher


@dataclass
class DryRunConfig(LocalConfig):
    """hydra.launcher of `hydra/launcher=plan`; it takes what is set of another launcher, too."""

    _target_: str = "hydra_plugins.kd_bench_dry_run.DryRunLauncher"
    instead_of: str = "local"  # the launcher that would run the jobs


class DryRunLauncher(LocalLauncher):
    """Shows what another launcher would run."""

    def __init__(self, instead_of: str, jobs_per_gpu: int, jobs_at_once: int | None, **others: Any):
        policy = {name: others[name] for name in ("on_error", "retries")}
        super().__init__(jobs_per_gpu, jobs_at_once, **policy)
        self.instead_of = instead_of

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Print the plan."""
        from kd_bench.sweep import dry_run, prepare  # imports torch, which --help does without

        jobs = prepare.prepare_jobs(compose.compose_jobs(job_overrides))
        is_local = self.instead_of == "local"
        dry_run.print_plan(jobs, len(self.slots(jobs[0].config)) if is_local else None)
        return []
