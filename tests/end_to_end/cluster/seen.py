"""Sweeps on a cluster as its tests start them, and what their jobs saw of it."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.jobs import TINY

from kd_bench.results.run_folder import CHECKPOINTS

METHOD = """
name: sees
weights: {ce: 1.0, sees: 1.0}
losses: {sees: {_target_: sees.Sees, seconds: 0.3}}
"""

# Every step of a job adds a line to a file of its process: where it runs, on which GPU, and when.
LOSS = """
import os, time
from pathlib import Path
from kd_bench.interfaces import Loss

NODE = ("SLURM_NODEID", "RAY_RAYLET_PID")

class Sees(Loss):
    needs_teacher = False

    def __init__(self, spec, seconds):
        super().__init__(spec)
        self.seconds = seconds

    def forward(self, student, teacher, batch):
        node = next(os.environ[name] for name in NODE if name in os.environ)
        job, gpu = os.environ.get("SLURM_JOB_ID", "-"), os.environ["CUDA_VISIBLE_DEVICES"]
        with open(f"seen/{os.getpid()}", "a") as file:
            print(node, gpu, job, os.getppid(), time.time(), file=file)
        time.sleep(self.seconds)
        return student.logits.sum() * 0
"""
STEPS = 3  # of an epoch: 40 images in batches of 16


@dataclass(frozen=True)
class Seen:
    """What one process of a job saw."""

    pid: int
    place: tuple[str, str]  # node and GPU
    slurm_job: str
    parent: int
    times: tuple[float, ...]  # of its steps


def prepare(folder: Path) -> None:
    """A folder in which sweeps of the method `sees` can be started."""
    (folder / "seen").mkdir()
    (folder / "sees.py").write_text(LOSS)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "sees.yaml").write_text(METHOD)


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a sweep."""
    command = [sys.executable, "-m", "kd_bench", "--config-dir", "conf", "-m", *TINY, *arguments]
    return subprocess.Popen(
        [*command, "method=sees", "device=cpu"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """A sweep's exit code, and what it printed."""
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed


def seen(folder: Path) -> list[Seen]:
    """What all processes saw so far."""
    found = []
    for path in (folder / "seen").iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        if rows:
            node, gpu, job, parent, _ = rows[0]
            times = tuple(float(row[-1]) for row in rows)
            found.append(Seen(int(path.name), (node, gpu), job, int(parent), times))
    return found


def after_an_epoch(folder: Path, epochs: int = 4) -> list[Seen]:
    """Jobs of which an epoch is on disk, and that have not come to their last."""
    last = (epochs - 1) * STEPS
    return [one for one in seen(folder) if len(one.times) < last and is_saved(folder, one)]


def is_saved(folder: Path, job: Seen) -> bool:
    """Whether a job at work could go on elsewhere: epochs are saved while the next one trains."""
    lock = next(folder.glob(f"runs/*/*/*/*/*/lock/*,{job.pid},*"), None)
    return lock is not None and (lock.parents[1] / CHECKPOINTS[0]).exists()


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 60):
    """What `condition` says, once it is true; a sweep that ends before is an error."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def results(folder: Path) -> list[Path]:
    """The results of all jobs."""
    return list(folder.glob("runs/*/*/*/*/*/result.json"))


def locks(folder: Path) -> list[Path]:
    """The locks that are left."""
    return list(folder.glob("runs/*/*/*/*/*/lock/*"))


def is_alive(pid: int) -> bool:
    """Whether a process works, rather than waits to be asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_places(found: list[Seen], places: int) -> None:
    """Each job had a place of its own while it ran, and all places were used."""
    assert {len(one.place[1].split(",")) for one in found} == {1}
    assert len({one.place for one in found}) == places
    by_start = sorted(found, key=lambda one: one.times[0])
    for number, later in enumerate(by_start):
        for earlier in by_start[:number]:
            if earlier.place == later.place:
                assert earlier.times[-1] < later.times[0]
