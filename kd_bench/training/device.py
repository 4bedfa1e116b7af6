"""The device of a job, and the settings of PyTorch that all jobs share."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from kd_bench.config.schema import Device
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.process import check_threads, core_count, keep_memory
from kd_bench.utils.text.formatting import pluralize


def choose_device(choice: Device) -> torch.device:
    """The device for `cpu`, `cuda`, or `auto`: the GPU if there is one.

    Raises:
        UserError: `cuda` on a machine without a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if choice is Device.cuda and not has_gpu:
        raise UserError("device=cuda: PyTorch finds no GPU; choose device=cpu or device=auto")
    is_gpu = has_gpu and choice is not Device.cpu
    return torch.device("cuda" if is_gpu else "cpu")


def configure_process(threads: int) -> None:
    """Configure this process for bitwise reproducibility, before anything runs on a device.

    Args:
        threads: number of threads that PyTorch uses.

    Raises:
        UserError: there are fewer cores than threads.
    """
    check_threads(threads)
    keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    for switch in tf32_switches():
        switch.allow_tf32 = False  # `execution.tf32` allows it for the steps of some jobs
    # The same as use_deterministic_algorithms(True, warn_only=True), which would import the
    # compiler and take a second.
    torch.set_deterministic_debug_mode("warn")
    # Filling takes time and changes no result. (A property that the module's type stubs lack.)
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False


def check_processes(device: torch.device, processes: int, threads: int) -> None:
    """Refuse a job with more processes than there are GPUs, or CPU cores for their threads.

    Raises:
        UserError: states how many are available.
    """
    if processes == 1:
        return
    if device.type == "cuda":
        what, most = "GPU", torch.cuda.device_count()
    else:
        what, most = "core", core_count() // threads
    require(
        processes <= most,
        f"gpus_per_job={processes}: this process may use {pluralize(most, what)}"
        f"{f' for {threads} threads each' if what == 'core' and threads > 1 else ''};"
        f" choose gpus_per_job={most} or fewer",
    )


def tf32_switches() -> tuple[Any, Any]:
    """The two PyTorch backends with an `allow_tf32` flag: convolutions and matrix products."""
    return torch.backends.cudnn, torch.backends.cuda.matmul


def device_name(device: torch.device) -> str:
    """The name of the GPU or CPU, as reported by the driver or kernel."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
