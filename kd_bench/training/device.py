"""The device of a job, and PyTorch's settings that every job has."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from kd_bench.config.schema import Device
from kd_bench.utils.errors import UserError
from kd_bench.utils.process import keep_memory


def choose_device(choice: str) -> torch.device:
    """The device for `cpu`, `cuda`, or `auto`: the GPU where there is one.

    Raises:
        UserError: `cuda` on a machine without; where a sweep starts, it need not have one.
    """
    has_gpu = torch.cuda.is_available()
    if choice == Device.auto.value:
        choice = "cuda" if has_gpu else "cpu"
    if choice == Device.cuda.value and not has_gpu:
        raise UserError("device=cuda: PyTorch sees no GPU here; choose device=cpu or device=auto")
    return torch.device(choice)


def prepare_torch(threads: int) -> None:
    """Settings of the process, made before anything runs on a device: for equal bits, and memory.

    Args:
        threads: of the process.
    """
    keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    for library in (torch.backends.cudnn, torch.backends.cuda.matmul):
        library.allow_tf32 = False  # where a job allows it, it does for its steps alone
    # use_deterministic_algorithms(True, warn_only=True), which would load the compiler: a second
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, changes no result


def device_name(device: torch.device) -> str:
    """What a GPU or a CPU calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
