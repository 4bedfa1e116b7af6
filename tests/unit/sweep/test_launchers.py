"""Places on other machines, as far as they need none: what the queue says, what is refused."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.jobs import TINY

from kd_bench.sweep.executors import ray
from kd_bench.sweep.executors import slurm as slurm_executor
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize(("place", "library"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_library_is_answered_with_the_line_that_installs_it(tmp_path, place, library):
    arguments = ["-m", f"hydra/launcher={place}", *TINY, "seed=0,1"]
    program = (
        f"import sys; sys.modules['{library}'] = None; from kd_bench.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"kd-bench: hydra/launcher={place} needs {library}, which is not installed:"
        f' pip install "kd-bench[{place}]"\n'
    )
    assert list(tmp_path.iterdir()) == []


# Slurm


class Paths:
    def __init__(self, folder):
        self.folder, self.result_pickle = folder, folder / "result.pkl"


class Submitted:
    """A job as submitit returns it."""

    def __init__(self, job_id, folder):
        self.job_id, self.paths = job_id, Paths(folder / f"submitit-{job_id}")
        self.paths.folder.mkdir()

    def exception(self):
        return None

    def result(self):
        return int(self.paths.result_pickle.read_text())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A `squeue` that prints the file `queue`, and a `scancel`; both leave a line in `calls`."""
    for name in ("squeue", "scancel"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        script.chmod(0o755)
    with open(tmp_path / "bin" / "squeue", "a") as script:
        script.write(f"cat {tmp_path}/queue\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_executor, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(slurm_executor, "POLL_SECONDS", 0.0)
    (tmp_path / "runs").mkdir()

    def process(job_id, queue):
        return slurm_executor.SlurmProcess(Submitted(job_id, tmp_path), tmp_path / "runs", queue)

    return process


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_the_queue_is_asked_once_for_all_jobs(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(slurm_executor, "POLL_SECONDS", 60.0)
    (tmp_path / "queue").write_text("".join(f"{i}|RUNNING|None\n" for i in range(50)))
    queue = slurm_executor.Queue()
    processes = [slurm(str(i), queue) for i in range(50)]
    assert [process.poll() for process in processes * 3] == [None] * 150
    assert len(calls(tmp_path)) == 1


def test_a_job_that_leaves_the_queue_without_a_result_was_killed(tmp_path, slurm):
    (tmp_path / "queue").write_text("6|RUNNING|None\n")  # 7 is not there any more
    process = slurm("7", slurm_executor.Queue())
    assert process.poll() is None  # what it left behind may be on its way
    time.sleep(0.15)
    assert process.poll() == -signal.SIGKILL
    assert process.reason() == "Slurm job 7 ended without a result: GONE"


def test_a_result_that_shows_late_is_waited_for(tmp_path, slurm):
    (tmp_path / "queue").write_text("7|COMPLETED|None\n")
    process = slurm("7", slurm_executor.Queue())
    assert process.poll() is None
    (tmp_path / "runs" / "result.json").touch()
    assert process.poll() == 0
    assert not process.job.paths.folder.exists()  # nothing is left to look into


def test_a_job_that_is_put_back_into_the_queue_is_still_at_work(tmp_path, slurm):
    process = slurm("7", slurm_executor.Queue())
    for state in ("RUNNING", "PREEMPTED", "PENDING", "NODE_FAIL", "RUNNING"):
        (tmp_path / "queue").write_text(f"7|{state}|None\n")
        assert process.poll() is None
        time.sleep(0.06)  # two of them would be late


def test_a_queue_that_does_not_answer_says_nothing(tmp_path, slurm):
    process = slurm("7", slurm_executor.Queue())
    time.sleep(0.15)
    assert process.poll() is None  # there is no file to print: squeue fails
    time.sleep(0.15)
    assert process.poll() is None


@pytest.mark.parametrize(("code", "polled"), [(75, 75), (130, 130), (1, 1)])
def test_a_jobs_own_exit_code_comes_from_the_file_it_left(tmp_path, slurm, code, polled):
    (tmp_path / "queue").write_text("7|RUNNING|None\n")
    process = slurm("7", slurm_executor.Queue())
    process.job.paths.result_pickle.write_text(str(code))
    assert process.poll() == polled


@pytest.mark.parametrize(
    ("state", "number", "expected"),
    [
        ("PENDING", signal.SIGINT, ["scancel --quiet 7"]),
        ("RUNNING", signal.SIGINT, ["scancel --quiet --signal=INT 7"]),
        ("RUNNING", signal.SIGTERM, ["scancel --quiet 7"]),
        (
            "RUNNING",
            signal.SIGKILL,
            ["scancel --quiet 7", "scancel --quiet --full --signal=KILL 7"],
        ),
    ],
)
def test_a_job_that_waits_is_taken_out_and_one_that_runs_is_asked_first(
    tmp_path, slurm, state, number, expected
):
    (tmp_path / "queue").write_text(f"7|{state}|None\n")
    slurm("7", slurm_executor.Queue()).signal(number)
    assert calls(tmp_path)[1:] == expected


def test_without_slurm_the_launcher_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch here"):
        slurm_executor.slurm_slots(tmp_path, 1, {"setup": []}, 1)


# Ray


@pytest.mark.parametrize(
    ("gpus", "cpus", "fit"),
    [
        (1.0, 1.0, 2),  # 2 GPUs and 8 cores: the GPUs are what is scarce
        (0.5, 1.0, 4),
        (0.0, 3.0, 2),
        (1.0, 5.0, 1),
        (3.0, 1.0, 0),
    ],
)
def test_as_many_jobs_fit_on_a_node_as_have_their_share_of_it(gpus, cpus, fit):
    node = {"GPU": 2.0, "CPU": 8.0, "memory": 1e9}
    assert ray._jobs_that_fit(node, {"num_gpus": gpus, "num_cpus": cpus}) == fit


def test_a_job_ends_with_the_process_that_started_it(tmp_path):
    # As Ray's worker does; the job itself waits on a pipe that nobody opens.
    os.mkfifo(tmp_path / "jobs.jsonl")
    program = (
        "import os, subprocess, sys, time\n"
        "environment = os.environ | {'KD_BENCH_PARENT': str(os.getpid())}\n"
        "job = subprocess.Popen([sys.executable, '-m', 'kd_bench.jobs.worker', sys.argv[1], '0'],"
        " env=environment)\n"
        "print(job.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "jobs.jsonl")]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(worker.stdout.readline())
    time.sleep(0.5)
    worker.kill()
    worker.wait()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/status") and "Z" not in state(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
