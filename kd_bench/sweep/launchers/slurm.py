"""The launcher for a Slurm cluster: one Slurm job per job, submitted with submitit."""

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
    """hydra.launcher of `hydra/launcher=slurm`; null means the cluster's default."""

    _target_: str = "hydra_plugins._kd_bench_launchers.SlurmLauncher"
    _convert_: str = "all"
    jobs_at_once: int = 16  # in the queue, waiting or running
    partition: str | None = None
    timeout_min: int = 720  # a job that takes longer is requeued and resumes
    # Per job, or per process of a job if gpus_per_job is above 1:
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
        self.mem_gb, self.parameters = mem_gb, {"time": timeout_min} | others

    def slots(self, config: Config) -> list[SlurmSlot]:
        """One slot for each job that may be in the queue at once."""
        folder = Path(config.runs_dir) / SWEEPS / "slurm"
        parameters = self._parameters(config.gpus_per_job)
        return slurm_slots(folder, config.threads, parameters, self.jobs_at_once)

    def _parameters(self, processes: int) -> dict[str, Any]:
        """Parameters of submitit for jobs with this many processes on one node."""
        parameters = dict(self.parameters)
        for name in ("gpus_per_node", "cpus_per_task"):
            if parameters.get(name) is not None:
                parameters[name] *= processes
        if (cores := parameters.get("cpus_per_task")) is not None:
            # Since Slurm 22.05, srun does not inherit it from sbatch, and may pin to one core.
            parameters["srun_args"] = [f"--cpus-per-task={cores}"]
        if self.mem_gb is not None:
            parameters["mem"] = f"{round(processes * self.mem_gb * 1024)}MB"
        return {name: value for name, value in parameters.items() if value is not None}
