"""Sweeps on a cluster, and a log of the node and GPU on which each job process ran."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.jobs import TINY
from helpers.shell import environment, results
from kd_bench.results.run_folder import CHECKPOINTS

METHOD = """
name: sees
weights: {ce: 1.0, sees: 1.0}
losses: {sees: {_target_: sees.Sees, seconds: 0.3, fails_in: null}}
"""

# Every training step appends node, GPUs and time to a file of its process.
LOSS = """
import os, time
from pathlib import Path
from kd_bench.interfaces import Loss

NODE = ("SLURM_NODEID", "RAY_RAYLET_PID")

class Sees(Loss):
    needs_teacher = False

    def __init__(self, context, seconds, fails_in):
        super().__init__(context)
        self.seconds, self.fails_in = seconds, fails_in

    def forward(self, student, teacher, batch):
        node = next((os.environ[name] for name in NODE if name in os.environ), "no node")
        job, gpu = (os.environ.get(name, "-") for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"))
        with open(f"seen/{os.getpid()}", "a") as file:
            print(node, gpu, job, os.getppid(), time.time(), file=file)
        if os.environ.get("RANK") == str(self.fails_in):
            raise LookupError("no such thing")
        time.sleep(self.seconds)
        return student.logits.sum() * 0
"""
SEEDS_AND_EPOCHS = ("seed=0,1", "recipe.epochs=4")
STEPS = 3  # per epoch: 40 images in batches of 16


@dataclass(frozen=True)
class Seen:
    """What one process of a job logged."""

    pid: int
    place: tuple[str, str]  # node and GPUs
    slurm_job: str
    parent: int
    times: tuple[float, ...]  # of its steps


def write_method(folder: Path) -> None:
    """Write the method `sees` into the folder in which sweeps are started."""
    (folder / "seen").mkdir()
    (folder / "sees.py").write_text(LOSS)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "sees.yaml").write_text(METHOD)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a sweep of the method `sees`."""
    command = [sys.executable, "-m", "kd_bench", "--config-dir", "conf", "-m", *TINY, *arguments]
    return subprocess.Popen(
        [*command, "method=sees", "device=cpu"],
        cwd=folder,
        env=environment(),  # a sweep finds the method's module in its current folder
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(sweep: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a sweep; returns its exit code and output."""
    output, _ = sweep.communicate(timeout=120)
    return sweep.returncode, output


def seen(folder: Path) -> list[Seen]:
    """What all processes have logged so far."""
    found = []
    for path in (folder / "seen").iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        if rows:
            node, gpu, job, parent, _ = rows[0]
            times = tuple(float(row[-1]) for row in rows)
            found.append(Seen(int(path.name), (node, gpu), job, int(parent), times))
    return found


def can_resume(folder: Path, epochs: int = 4) -> list[Seen]:
    """Running jobs that have a checkpoint and have not reached their last epoch."""
    last = (epochs - 1) * STEPS
    return [each for each in seen(folder) if len(each.times) < last and _is_saved(folder, each)]


def _is_saved(folder: Path, job: Seen) -> bool:
    """Whether a running job has a checkpoint, which is written while the next epoch trains."""
    lock = next(folder.glob(f"runs/*/*/*/*/*/lock/*,{job.pid},*"), None)
    return lock is not None and (lock.parents[1] / CHECKPOINTS[0]).exists()


def locks(folder: Path) -> list[Path]:
    """All locks that exist."""
    return list(folder.glob("runs/*/*/*/*/*/lock/*"))


def is_alive(pid: int) -> bool:
    """Whether a process is running; zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_places(jobs: list[Seen], places: int) -> None:
    """Check that no two jobs shared a GPU at the same time, and that all GPUs were used."""
    assert {len(job.place[1].split(",")) for job in jobs} == {1}
    assert len({job.place for job in jobs}) == places
    by_start = sorted(jobs, key=lambda job: job.times[0])
    for number, later in enumerate(by_start):
        for earlier in by_start[:number]:
            if earlier.place == later.place:
                assert earlier.times[-1] < later.times[0]


def processes_of(folder: Path, job: Seen) -> list[Seen]:
    """All processes of a job of several: those with the same parent."""
    return [each for each in seen(folder) if each.parent == job.parent]


def side_by_side(folder: Path) -> list[Seen]:
    """Jobs that can resume, once both jobs of two processes run."""
    return can_resume(folder) if len({each.parent for each in seen(folder)}) == 2 else []


def check_that_both_jobs_end_as_on_this_machine(folder: Path, *arguments: str) -> None:
    """Check that a sweep of two jobs finishes them, with the bits of the same sweep run locally."""
    code, output = finish(start(folder, *arguments))
    assert code == 0, output
    (here := folder / "here").mkdir()
    write_method(here)
    code, output = finish(start(here, "gpus_per_job=2", *SEEDS_AND_EPOCHS))
    assert code == 0, output
    histories = [sorted(each.glob("runs/*/*/sees/*/*/history.csv")) for each in (folder, here)]
    assert len(histories[0]) == len(histories[1]) == 2
    for one, other in zip(*histories, strict=True):
        assert one.relative_to(folder) == other.relative_to(here)
        assert one.read_bytes() == other.read_bytes()


def check_that_the_error_of_the_second_process_is_the_jobs(folder: Path, *arguments: str) -> None:
    """Check the GPUs of a job of two processes, the second of which fails, and its error."""
    write_method(folder)
    code, output = finish(
        start(folder, *arguments, "gpus_per_job=2", "seed=0", "method.losses.sees.fails_in=1")
    )
    assert code == 1, output
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert "FAILED: LookupError: no such thing; see " in line
    assert [len(each.place[1].split(",")) for each in seen(folder)] == [2, 2]
    assert len({each.parent for each in seen(folder)}) == 1
    assert not [each for each in seen(folder) if is_alive(each.pid) or is_alive(each.parent)]
    (console,) = folder.glob("runs/*/*/sees/*/*/console.log")
    assert console.read_text().startswith("Traceback of your own code")
    assert locks(folder) == []


def check_that_the_failed_job_resumes(folder: Path, *arguments: str) -> None:
    """Check that a sweep of six jobs, one of which failed, resumes that one and no other."""
    assert len(results(folder)) == 5
    before = {job.pid for job in seen(folder)}
    code, output = finish(start(folder, *arguments))
    assert code == 0, output
    assert output.count("already done, nothing to train") == 5
    assert len(results(folder)) == 6
    (resumed,) = (job for job in seen(folder) if job.pid not in before)
    assert len(resumed.times) < 4 * STEPS  # from a checkpoint, not from the start
