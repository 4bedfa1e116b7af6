"""Places for jobs: a GPU, a share of one, or a few cores; a process that is pinned to its place."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kd_bench.config.schema import Device
from kd_bench.jobs.protocol import CORES
from kd_bench.sweep.executors.fork_server import ForkedProcess
from kd_bench.utils import process


class Process(Protocol):
    """A job at work."""

    def poll(self) -> int | None:
        """None while it works, then its exit code; of one that was killed, minus the signal."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still works."""

    def reason(self) -> str | None:
        """Why it ended without a result, where its place knows more than the exit code says."""


class Slot(Protocol):
    """A place for one job at a time."""

    name: str

    def start(self, frozen: Path, number: int, log: Path) -> Process:
        """Run job `number` of the sweep file `frozen`; what it prints goes to `log`."""


@dataclass(frozen=True)
class LocalSlot:
    """A GPU, a share of one, or a few cores of this machine."""

    number: int
    name: str
    environment: dict[str, str] = field(compare=False)

    def start(self, frozen: Path, number: int, log: Path) -> ForkedProcess:
        """Start a process that is pinned to this place before it begins."""
        return ForkedProcess(frozen, number, log, self.environment)


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use; asks nvidia-smi, so torch need not be loaded."""
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
    """Where jobs run: every visible GPU `jobs_per_gpu` times, else the cores by `threads` each.

    Args:
        device: of a job; cpu leaves GPUs alone.
        threads: of a job.
        jobs_per_gpu: jobs that share a GPU.
        jobs_at_once: at most so many slots; None: as many as there are.
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
    """This process's cores, `size` at a time; all of them where there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    starts = range(0, len(cores) - size + 1, size)
    return [cores[start : start + size] for start in starts] or [cores]
