"""Hydra's launcher for one machine: composes and freezes a sweep's jobs, and runs them in slots."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd_bench import compose, slots


@dataclass
class LocalConfig:
    """hydra.launcher of `hydra/launcher=local`."""

    _target_: str = "hydra_plugins.kd_bench_local.LocalLauncher"
    jobs_per_gpu: int = 1
    jobs_at_once: int | None = None  # None: as many as there are GPUs, or cores / threads


class LocalLauncher(Launcher):
    """One process per job, pinned to its GPU or cores."""

    def __init__(self, jobs_per_gpu: int, jobs_at_once: int | None):
        self.jobs_per_gpu, self.jobs_at_once = jobs_per_gpu, jobs_at_once

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the sweep's configuration; Hydra calls this before `launch`."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; leaves with an exit code where some failed."""
        from kd_bench import sweep  # imports torch, which --help does without
        from kd_bench.display import SweepDisplay

        jobs = sweep.freeze(compose.jobs(job_overrides))
        first = jobs[0].config
        places = slots.local_slots(
            first["device"], first["threads"], self.jobs_per_gpu, self.jobs_at_once
        )
        show = SweepDisplay(len(jobs))
        if code := sweep.run_sweep(jobs, self._name(job_overrides), places, show):
            sys.exit(code)  # a failed JobReturn would make Hydra print its traceback
        return []

    def _name(self, job_overrides: Sequence[Sequence[str]]) -> str:
        """The sweep file's name, or a digest of what was typed instead."""
        text = "\n".join(" ".join(overrides) for overrides in job_overrides)
        chosen = self.config.hydra.runtime.choices.get("sweep")
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{chosen or 'command-line'}-{digest}"
