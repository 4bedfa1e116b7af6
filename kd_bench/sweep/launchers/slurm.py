"""The launcher for a Slurm cluster: a Slurm job per job, submitted with submitit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_bench.config.schema import Config
from kd_bench.results.run_folder import SWEEPS
from kd_bench.sweep.executors.slurm import SlurmSlot, slurm_slots
from kd_bench.sweep.launchers.base import SweepConfig, SweepLauncher, require_one_or_more
from kd_bench.sweep.retry import OnError


@dataclass
class SlurmConfig(SweepConfig):
    """hydra.launcher of `hydra/launcher=slurm`; null leaves a value to the cluster's defaults."""

    _target_: str = "hydra_plugins._kd_bench_launchers.SlurmLauncher"
    _convert_: str = "all"
    jobs_at_once: int = 16  # in the queue, waiting or running
    partition: str | None = None
    timeout_min: int = 720  # a job that takes longer is requeued and resumes
    gpus_per_node: int | None = 1
    cpus_per_task: int = 4
    mem_gb: float | None = 16
    setup: list[str] = field(default_factory=list)  # shell commands to run before the job
    # Any other options of sbatch. By default, a job that loses its node is requeued.
    additional_parameters: dict[str, Any] = field(default_factory=lambda: {"requeue": True})


class SlurmLauncher(SweepLauncher):
    """One Slurm job per job."""

    library = "submitit"
    extra = "slurm"

    def __init__(
        self,
        jobs_at_once: int,
        timeout_min: int,
        mem_gb: float | None,
        on_error: OnError,
        retries: int,
        **others: Any,
    ):
        super().__init__(on_error, retries)
        require_one_or_more(jobs_at_once=jobs_at_once)
        self.jobs_at_once = jobs_at_once
        memory = None if mem_gb is None else f"{round(mem_gb * 1024)}MB"
        parameters = {"time": timeout_min, "mem": memory} | others
        self.parameters = {name: value for name, value in parameters.items() if value is not None}

    def slots(self, config: Config) -> list[SlurmSlot]:
        """One for each job that may be in the queue at once."""
        folder = Path(config.runs_dir) / SWEEPS / "slurm"
        return slurm_slots(folder, config.threads, self.parameters, self.jobs_at_once)
