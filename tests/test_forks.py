"""Jobs that are forks: pinned, in a group of their own, heard in their log, and quick to start."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

from jobs import job

from kd_bench import environment, forks, frozen, sweep

SERVER = """
import os
from multiprocessing.forkserver import _forkserver as server
from kd_bench import environment, forks
forks.prepare(environment.for_job(2))
job = forks._CONTEXT.Process(target=os.getpid)
job.start()
job.join()
print(len(os.listdir(f"/proc/{server._forkserver_pid}/task")))
print("libtorch" in open(f"/proc/{server._forkserver_pid}/maps").read())
import kd_bench.run, torch
print(torch.cuda.is_initialized())
"""


def fork(folder: Path, *overrides: str, number: int = 0, **variables: str) -> forks.Fork:
    path = frozen.write(sweep.freeze([(job(folder, "method=baseline", *overrides), {})]), "mine")
    given = environment.for_job(1) | variables
    return forks.Fork(path, number, folder / "console.log", given)


def ended(process: forks.Fork) -> int:
    end = time.monotonic() + 60
    while (code := process.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return code


def test_what_forks_has_pytorch_loaded_but_no_second_thread_and_no_gpu_in_use():
    command = [sys.executable, "-c", SERVER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "False"]


def test_a_fork_trains_its_job_and_ends_with_0(tmp_path):
    process = fork(tmp_path, "recipe.epochs=1")
    assert ended(process) == 0
    assert len(list(tmp_path.rglob("result.json"))) == 1
    assert (tmp_path / "console.log").read_text() == ""


def test_a_fork_has_its_cores_its_variables_and_a_group_of_its_own(tmp_path):
    core = min(os.sched_getaffinity(0))
    here = os.environ.get("KD_BENCH_CORES")
    process = fork(tmp_path, "recipe.epochs=100000", KD_BENCH_CORES=str(core))
    number = process._process.pid
    end = time.monotonic() + 60
    while not list(tmp_path.rglob("history.csv")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    assert os.sched_getaffinity(number) == {core}
    assert os.getpgid(number) == os.getsid(number) == number
    assert os.environ.get("KD_BENCH_CORES") == here
    process.signal(signal.SIGINT)
    assert ended(process) == 130


def test_a_fork_that_is_killed_is_gone_at_once_and_its_code_says_by_what(tmp_path):
    process = fork(tmp_path, "recipe.epochs=100000")
    process.signal(signal.SIGKILL)
    assert process.poll() == -signal.SIGKILL
    process.signal(signal.SIGKILL)  # of one that has ended, nothing


def test_what_a_fork_prints_is_in_its_log(tmp_path):
    process = fork(tmp_path, "recipe.epochs=1", number=7)
    assert ended(process) == 1
    assert "IndexError" in (tmp_path / "console.log").read_text()


def test_another_process_forks_where_the_first_was_lost(tmp_path):
    assert ended(fork(tmp_path / "one", "recipe.epochs=1")) == 0
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    assert ended(fork(tmp_path / "two", "recipe.epochs=1")) == 0
