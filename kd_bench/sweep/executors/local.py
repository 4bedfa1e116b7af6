"""Slots of this machine: a GPU, a share of one, or a few cores, to which a process is pinned."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from kd_bench.config.schema import Device
from kd_bench.jobs.protocol import CORES
from kd_bench.sweep.executors.fork_server import ForkedProcess
from kd_bench.utils import process


@dataclass(frozen=True)
class LocalSlot:
    """A GPU, a share of one, or a few cores of this machine."""

    number: int
    name: str
    environment: dict[str, str] = field(compare=False)

    def start(self, file: Path, number: int, log: Path) -> ForkedProcess:
        """Start job `number` of a sweep's file in a process that is pinned to this slot."""
        return ForkedProcess(file, number, log, self.environment)


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use; from nvidia-smi, so that torch is not needed."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in chosen.split(",") if gpu]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return found.split()


def local_slots(
    device: Device, threads: int, jobs_per_gpu: int, jobs_at_once: int | None
) -> list[LocalSlot]:
    """Each visible GPU `jobs_per_gpu` times; without a GPU, groups of `threads` cores.

    Args:
        device: of a job; with cpu, GPUs are not used.
        threads: of a job.
        jobs_per_gpu: how many jobs share a GPU.
        jobs_at_once: the most slots; None: no limit.
    """
    gpus = [] if device is Device.cpu else visible_gpus()
    places = [(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus] * jobs_per_gpu
    if not places:
        groups = [",".join(map(str, group)) for group in _groups_of_cores(threads)]
        places = [(f"core {cores}", {CORES: cores}) for cores in groups]
    shared = process.job_environment(threads)
    slots = [LocalSlot(i, name, shared | place) for i, (name, place) in enumerate(places)]
    return slots[:jobs_at_once]


def _groups_of_cores(size: int) -> list[list[int]]:
    """This process's cores in groups of `size`; one group of all cores if there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    starts = range(0, len(cores) - size + 1, size)
    return [cores[start : start + size] for start in starts] or [cores]
