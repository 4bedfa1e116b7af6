"""The launcher for one machine: a process per job, pinned to its GPU or cores."""

from __future__ import annotations

from dataclasses import dataclass

from kd_bench.config.schema import Config
from kd_bench.sweep.executors import fork_server
from kd_bench.sweep.executors.local import LocalSlot, local_slots
from kd_bench.sweep.launchers.base import SweepConfig, SweepLauncher, require_one_or_more
from kd_bench.sweep.retry import OnError
from kd_bench.utils import process


@dataclass
class LocalConfig(SweepConfig):
    """hydra.launcher of `hydra/launcher=local`."""

    _target_: str = "hydra_plugins._kd_bench_launchers.LocalLauncher"
    jobs_per_gpu: int = 1
    jobs_at_once: int | None = None  # maximum; None: one per share of a GPU, or `threads` cores


class LocalLauncher(SweepLauncher):
    """One process per job, pinned to its GPU or cores."""

    def __init__(
        self, jobs_per_gpu: int, jobs_at_once: int | None, on_error: OnError, retries: int
    ):
        super().__init__(on_error, retries)
        require_one_or_more(jobs_per_gpu=jobs_per_gpu, jobs_at_once=jobs_at_once)
        self.jobs_per_gpu, self.jobs_at_once = jobs_per_gpu, jobs_at_once

    def start_loading(self, config: Config) -> None:
        """Load PyTorch, once for all jobs."""
        process.check_threads(config.threads)
        fork_server.prepare(process.job_environment(config.threads))

    def slots(self, config: Config) -> list[LocalSlot]:
        """This machine's GPUs, or its cores."""
        # Not imported for --help: it imports torch, which takes seconds.
        from kd_bench.training.device import check_processes, choose_device

        device = choose_device(config.device)
        process.check_threads(config.threads)
        check_processes(device, config.gpus_per_job, config.threads)
        return local_slots(
            config.device,
            config.threads,
            self.jobs_per_gpu,
            self.jobs_at_once,
            gpus_per_job=config.gpus_per_job,
        )
