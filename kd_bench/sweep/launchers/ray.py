"""The launcher for a Ray cluster: a task per job, with its share of GPUs and cores."""

from __future__ import annotations

from dataclasses import dataclass

from kd_bench.config.schema import Config
from kd_bench.sweep.executors.ray import RaySlot, ray_slots
from kd_bench.sweep.launchers.base import SweepConfig, SweepLauncher, require_one_or_more
from kd_bench.sweep.retry import OnError
from kd_bench.utils.errors import require


@dataclass
class RayConfig(SweepConfig):
    """hydra.launcher of `hydra/launcher=ray`."""

    _target_: str = "hydra_plugins._kd_bench_launchers.RayLauncher"
    address: str = "local"  # a new cluster on this machine; auto: the running one
    # Per job, or per process of a job if gpus_per_job is above 1:
    num_gpus: float = 1.0  # below 1, several jobs share a GPU
    num_cpus: float = 1.0
    jobs_at_once: int | None = None  # None: as many as fit when the sweep starts


class RayLauncher(SweepLauncher):
    """One Ray task per job."""

    library = "ray"
    extra = "ray"

    def __init__(
        self,
        address: str,
        num_gpus: float,
        num_cpus: float,
        jobs_at_once: int | None,
        on_error: OnError,
        retries: int,
    ):
        super().__init__(on_error, retries)
        require(num_cpus > 0, f"hydra.launcher.num_cpus must be above 0, got {num_cpus}")
        require(num_gpus >= 0, f"hydra.launcher.num_gpus must be 0 or more, got {num_gpus}")
        require_one_or_more(jobs_at_once=jobs_at_once)
        self.address, self.jobs_at_once = address, jobs_at_once
        self.resources = {"num_gpus": num_gpus, "num_cpus": num_cpus}

    def slots(self, config: Config) -> list[RaySlot]:
        """By default, as many slots as jobs fit into the cluster."""
        processes, gpus = config.gpus_per_job, self.resources["num_gpus"]
        require(
            processes == 1 or gpus == int(gpus),
            f"gpus_per_job={processes}: processes do not share GPUs, so hydra.launcher.num_gpus"
            f" must be a whole number, got {gpus:g}",
        )
        resources = {name: processes * n for name, n in self.resources.items()}
        return ray_slots(self.address, resources, config.threads, self.jobs_at_once)
