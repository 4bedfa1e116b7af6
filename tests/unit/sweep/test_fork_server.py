"""Jobs that are forks: pinned, in a group of their own, heard in their log, and quick to start."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from helpers.jobs import TINY, job
from helpers.paths import PACKAGE

from kd_bench.jobs.job import write_jobs
from kd_bench.sweep import prepare
from kd_bench.sweep.executors import fork_server
from kd_bench.utils import process as process_module

SERVER = """
import os
from multiprocessing.forkserver import _forkserver
from kd_bench.sweep.executors import fork_server
from kd_bench.utils import process
fork_server.prepare(process.job_environment(2))
job = fork_server._CONTEXT.Process(target=os.getpid)
job.start()
job.join()
print(len(os.listdir(f"/proc/{_forkserver._forkserver_pid}/task")))
print("libtorch" in open(f"/proc/{_forkserver._forkserver_pid}/maps").read())
"""
LOADING = """
import sys
from importlib import import_module
from kd_bench.sweep.executors import fork_server
for name in fork_server._loaded():
    import_module(name)
print(*(name for name in sys.modules if name.startswith("kd_bench.")))
"""
UNGUARDED = "import sys; sys.argv[1:] = {}; from kd_bench.cli.main import main; main()"


def python(code: str) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def fork(tmp_path):
    """Start a job as a fork; those that still run at the end are killed."""
    begun = []

    def start(*overrides: str, number: int = 0, **variables: str) -> fork_server.ForkedProcess:
        path = write_jobs(
            prepare.prepare_jobs([(job(tmp_path, "method=baseline", *overrides), {})]), "x"
        )
        given = process_module.job_environment(1) | variables
        begun.append(fork_server.ForkedProcess(path, number, tmp_path / "console.log", given))
        return begun[-1]

    yield start
    for process in begun:
        process.signal(signal.SIGKILL)


def ended(process: fork_server.ForkedProcess) -> int:
    end = time.monotonic() + 60
    while (code := process.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return code


def works(number: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet, has."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_for_an_epoch(folder: Path, process: fork_server.ForkedProcess) -> None:
    end = time.monotonic() + 60
    while not list(folder.rglob("history.csv")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


def test_what_forks_has_pytorch_loaded_but_no_second_thread():
    assert python(SERVER) == ["1", "True"]


def test_all_that_a_job_may_load_is_loaded_before_it():
    loaded = python(LOADING)
    for package in ("methods", "models", "data"):
        for path in (PACKAGE / package).glob("[a-z]*.py"):
            assert f"kd_bench.{package}.{path.stem}" in loaded


def test_a_fork_trains_its_job_and_ends_with_0(fork, tmp_path):
    assert ended(fork("recipe.epochs=1")) == 0
    assert len(list(tmp_path.rglob("result.json"))) == 1
    assert (tmp_path / "console.log").read_text() == ""


def test_a_fork_has_its_cores_and_a_group_of_its_own(fork, tmp_path):
    core = min(os.sched_getaffinity(0))
    names = (
        *process_module.job_environment(1),
        "KD_BENCH_CORES",
        "KD_BENCH_PARENT",
        "OPENBLAS_NUM_THREADS",
    )
    before = [os.environ.get(name) for name in names]
    process = fork("recipe.epochs=100000", KD_BENCH_CORES=str(core))
    wait_for_an_epoch(tmp_path, process)
    number = process._process.pid
    assert os.sched_getaffinity(number) == {core}
    assert os.getpgid(number) == os.getsid(number) == number
    assert [os.environ.get(name) for name in names] == before
    process.signal(signal.SIGINT)
    assert ended(process) == 130


def test_a_fork_that_is_killed_is_gone_at_once_and_its_code_says_by_what(fork):
    process = fork("recipe.epochs=100000")
    process.signal(signal.SIGKILL)
    assert process.poll() == -signal.SIGKILL
    process.signal(signal.SIGKILL)  # of one that has ended, nothing


def test_what_a_fork_prints_is_in_its_log(fork, tmp_path):
    assert ended(fork("recipe.epochs=1", number=7)) == 1
    assert "IndexError" in (tmp_path / "console.log").read_text()


def test_where_the_process_that_forks_is_lost_so_are_its_jobs_and_another_takes_its_place(
    fork, tmp_path
):
    process = fork("recipe.epochs=100000")
    wait_for_an_epoch(tmp_path, process)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    other = fork("recipe.epochs=1", "seed=1")
    assert ended(process) == -signal.SIGKILL
    end = time.monotonic() + 10
    while works(process._process.pid):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert ended(other) == 0


def test_a_signal_to_all_of_its_group_does_not_reach_what_forks(fork):
    assert ended(fork("recipe.epochs=1")) == 0
    server = forkserver._forkserver._forkserver_pid
    for number in fork_server.SIGNALS:
        os.kill(server, number)
    process = fork("recipe.epochs=1", "seed=1")
    assert ended(process) == 0
    assert forkserver._forkserver._forkserver_pid == server


@pytest.mark.slow
def test_a_program_without_a_guard_and_a_long_name_for_temporary_files_do_no_harm(tmp_path):
    script, long = tmp_path / "script.py", tmp_path / ("long" * 25)
    long.mkdir()
    typed = ["-m", *TINY, "method=baseline", "seed=0,1", "recipe.epochs=1"]
    script.write_text(UNGUARDED.format(typed))
    variables = os.environ | {"TMPDIR": str(long)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/**/result.json"))) == 2
