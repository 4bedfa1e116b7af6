"""Runs `kd-bench` in a separate process, as from a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from helpers.paths import ROOT
from kd_bench.results.run_folder import RESULT

KD_BENCH = [sys.executable, "-m", "kd_bench"]
_Value = TypeVar("_Value")


def environment(*folders: Path) -> dict[str, str]:
    """The environment of a process that imports from these folders and from this checkout."""
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *arguments: str, ignored: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """Start `kd-bench` in a folder, ignoring some signals; stderr is merged into stdout."""

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(
        [*KD_BENCH, *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=ignore,
        start_new_session=True,  # a separate process group, as from a terminal
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `kd-bench` in a folder; returns its exit code and output."""
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def wait_until(
    condition: Callable[[], _Value], process: subprocess.Popen[str], seconds: float = 60
) -> _Value:
    """Wait for a condition's first true value, which must come before a process ends."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process is running; zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def results(folder: Path) -> dict[Path, int]:
    """The result files below a folder, with their modification times in ns."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"runs/*/*/*/*/*/{RESULT}")}
