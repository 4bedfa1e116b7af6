"""Slots of this machine: a GPU, a share of a GPU, or a few cores, to which a process is pinned."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from kd_bench.config.schema import Device
from kd_bench.jobs.protocol import CORES
from kd_bench.sweep.executors.fork_server import ForkedProcess
from kd_bench.utils import process

NO_GPU = ("", "-1", "NoDevFiles")  # each ends the list in CUDA_VISIBLE_DEVICES


@dataclass(frozen=True)
class LocalSlot:
    """A GPU, a share of a GPU, or a few cores of this machine."""

    number: int
    name: str
    environment: dict[str, str] = field(compare=False)

    def start(self, file: Path, number: int, log: Path) -> ForkedProcess:
        """Start job `number` of a sweep's file in a process that is pinned to this slot."""
        return ForkedProcess(file, number, log, self.environment)


def visible_gpus() -> list[str]:
    """IDs of the GPUs that this process may use; from nvidia-smi, so that torch is not needed."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(takewhile(lambda gpu: gpu not in NO_GPU, chosen.split(",")))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return found.split()


def local_slots(
    device: Device,
    threads: int,
    jobs_per_gpu: int,
    jobs_at_once: int | None,
    *,
    gpus_per_job: int = 1,
) -> list[LocalSlot]:
    """Each visible GPU, or group of GPUs, `jobs_per_gpu` times; without a GPU, groups of cores.

    Args:
        device: of a job; with cpu, GPUs are not used.
        threads: per process of a job.
        jobs_per_gpu: number of jobs that share a GPU.
        jobs_at_once: maximum number of slots; None: no limit.
        gpus_per_job: GPUs per job; without a GPU, a job gets gpus_per_job * threads cores.
    """
    gpus = [] if device is Device.cpu else visible_gpus()
    groups = [",".join(group) for group in _groups(gpus, gpus_per_job)]
    places = [(f"GPU {group}", {"CUDA_VISIBLE_DEVICES": group}) for group in groups] * jobs_per_gpu
    if not places:
        available = list(map(str, sorted(os.sched_getaffinity(0))))
        # One group of all cores if there are fewer.
        groups = [",".join(group) for group in _groups(available, threads * gpus_per_job)]
        places = [(f"core {cores}", {CORES: cores}) for cores in groups or [",".join(available)]]
    shared = process.job_environment(threads)
    slots = [LocalSlot(i, name, shared | place) for i, (name, place) in enumerate(places)]
    return slots[:jobs_at_once]


def _groups(ids: list[str], size: int) -> list[list[str]]:
    """Consecutive groups of `size` IDs; an incomplete last group is dropped."""
    return [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
