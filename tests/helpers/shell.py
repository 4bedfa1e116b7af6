"""`kd-bench` as a process of its own, as from a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

KD_BENCH = [sys.executable, "-m", "kd_bench"]


def start(folder: Path, *arguments: str, ignored: tuple[int, ...] = ()) -> subprocess.Popen:
    def ignore():
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    variables = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*KD_BENCH, *arguments],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=ignore,
        start_new_session=True,  # a group of its own, as from a terminal
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    process = start(folder, *arguments)
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed


def results(folder: Path) -> dict[Path, int]:
    """Every result below a folder, with the time it appeared."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/*/*/result.json")}
