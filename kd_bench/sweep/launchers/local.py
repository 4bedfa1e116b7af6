"""Hydra's launcher for one machine: a process for each job, pinned to its GPU or cores."""

from __future__ import annotations

from dataclasses import dataclass

from kd_bench.config.schema import Config
from kd_bench.sweep.executors import fork_server
from kd_bench.sweep.executors.local import LocalSlot, local_slots
from kd_bench.sweep.launchers.base import SweepConfig, SweepLauncher, require_one_or_more
from kd_bench.utils import process


@dataclass
class LocalConfig(SweepConfig):
    """hydra.launcher of `hydra/launcher=local`."""

    _target_: str = "hydra_plugins.kd_bench_local.LocalLauncher"
    jobs_per_gpu: int = 1
    jobs_at_once: int | None = None  # None: as many as there are GPUs, or cores / threads


class LocalLauncher(SweepLauncher):
    """One process per job, pinned to its GPU or cores."""

    def __init__(self, jobs_per_gpu: int, jobs_at_once: int | None, **policy):
        super().__init__(**policy)
        require_one_or_more(jobs_per_gpu=jobs_per_gpu, jobs_at_once=jobs_at_once)
        self.jobs_per_gpu, self.jobs_at_once = jobs_per_gpu, jobs_at_once

    def prepare(self, config: Config) -> None:
        """Load PyTorch for all jobs."""
        fork_server.prepare(process.job_environment(config.threads))

    def slots(self, config: Config) -> list[LocalSlot]:
        """This machine's GPUs, or its cores."""
        from kd_bench.training.device import (
            choose_device,  # imports torch, which --help does without
        )

        choose_device(config.device)
        return local_slots(config.device, config.threads, self.jobs_per_gpu, self.jobs_at_once)
