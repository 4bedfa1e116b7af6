"""Jobs as forks: pinned to cores, each in its own process group, logged, and quick to start."""

import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from helpers.jobs import TINY, composed
from helpers.paths import CONF, PACKAGE
from helpers.shell import environment, is_alive, results

from kd_bench.jobs.job import write_jobs
from kd_bench.jobs.protocol import CORES, INTERRUPTED, PARENT
from kd_bench.results.run_folder import HISTORY, RESULT
from kd_bench.sweep.executors import fork_server
from kd_bench.sweep.prepare import prepare_jobs
from kd_bench.utils.process import job_environment

pytestmark = pytest.mark.slow  # each starts a server that loads PyTorch

SERVER = """
import os
from multiprocessing.forkserver import _forkserver
from kd_bench.sweep.executors import fork_server
from kd_bench.utils.process import job_environment
fork_server.prepare(job_environment(2))
job = fork_server._CONTEXT.Process(target=os.getpid)
job.start()
job.join()
print(len(os.listdir(f"/proc/{_forkserver._forkserver_pid}/task")))
print("libtorch" in open(f"/proc/{_forkserver._forkserver_pid}/maps").read())
"""
PRELOADED = """
import sys
from importlib import import_module
from kd_bench.sweep.executors.fork_server import PRELOAD
import_module(PRELOAD)
print(*sys.modules)
"""
UNGUARDED = "import sys; sys.argv[1:] = {}; from kd_bench.cli.main import main; main()"


def python(program: str) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def fork(tmp_path):
    """Start a job as a fork; forks still running at the end of the test are killed."""
    started = []

    def start(*overrides: str, number: int = 0, **variables: str) -> fork_server.ForkedProcess:
        typed = (*TINY, "method=baseline", *overrides, f"runs_dir={tmp_path}")
        file = write_jobs(prepare_jobs([composed(*typed)]), "mine")
        log = tmp_path / "console.log"
        process = fork_server.ForkedProcess(file, number, log, job_environment(1) | variables)
        started.append(process)
        return process

    yield start
    for process in started:
        process.signal(signal.SIGKILL)


def exit_code(process: fork_server.ForkedProcess) -> int:
    """The exit code of a process, once it has ended."""
    deadline = time.monotonic() + 60
    while (code := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def wait_for_an_epoch(folder: Path, process: fork_server.ForkedProcess) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.rglob(HISTORY)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def test_server_has_loaded_pytorch_and_has_no_second_thread():
    assert python(SERVER) == ["1", "True"]


def test_all_modules_that_a_job_may_import_are_preloaded():
    loaded = set(python(PRELOADED))
    files = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    targets = set(re.findall(r"_target_: (kd_bench\.[\w.]+)\.\w+", files))
    assert "kd_bench.methods.plugins.ea" in targets
    starts_a_job = {"kd_bench.sweep.executors.fork_server", "kd_bench.jobs.worker"}
    assert targets | starts_a_job | {"kd_bench.jobs.runner", "kd_bench.utils.supervisor"} <= loaded
    for package in ("methods", "models", "data"):
        for path in (PACKAGE / package).rglob("[a-z]*.py"):
            module = path.relative_to(PACKAGE.parent).with_suffix("")
            assert ".".join(module.parts) in loaded
    assert "torchvision" not in loaded  # it takes a second, and few jobs need it


def test_fork_trains_its_job_and_ends_with_0(fork, tmp_path):
    assert exit_code(fork("recipe.epochs=1")) == 0
    assert len(list(tmp_path.rglob(RESULT))) == 1
    assert (tmp_path / "console.log").read_text() == ""


def test_fork_has_its_own_cores_and_process_group_and_this_process_keeps_its_variables(
    fork, tmp_path
):
    core = min(os.sched_getaffinity(0))
    names = (*job_environment(1), CORES, PARENT, "OPENBLAS_NUM_THREADS")
    before = [os.environ.get(name) for name in names]
    process = fork("recipe.epochs=100000", **{CORES: str(core)})
    wait_for_an_epoch(tmp_path, process)
    pid = process._process.pid
    assert os.sched_getaffinity(pid) == {core}
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert [os.environ.get(name) for name in names] == before
    process.signal(signal.SIGINT)
    assert exit_code(process) == INTERRUPTED


def test_killed_fork_ends_at_once_and_its_exit_code_is_the_signal(fork):
    process = fork("recipe.epochs=100000")
    process.signal(signal.SIGKILL)
    assert process.poll() == -signal.SIGKILL
    process.signal(signal.SIGKILL)  # it has ended: no error


def test_output_of_a_fork_goes_to_its_log(fork, tmp_path):
    process = fork("recipe.epochs=1", number=7)
    assert exit_code(process) == 1
    assert process.reason() == "IndexError: list index out of range"
    assert "IndexError" in (tmp_path / "console.log").read_text()


def test_jobs_of_a_lost_server_count_as_killed_and_a_new_server_runs_the_next(fork, tmp_path):
    process = fork("recipe.epochs=100000")
    wait_for_an_epoch(tmp_path, process)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    other = fork("recipe.epochs=1", "seed=1")
    assert exit_code(process) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_alive(process._process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert exit_code(other) == 0


def test_signals_to_the_whole_process_group_do_not_reach_the_server(fork):
    assert exit_code(fork("recipe.epochs=1")) == 0
    server = forkserver._forkserver._forkserver_pid
    for number in fork_server.SIGNALS:
        os.kill(server, number)
    assert exit_code(fork("recipe.epochs=1", "seed=1")) == 0
    assert forkserver._forkserver._forkserver_pid == server


def test_sweep_runs_from_an_unguarded_script_and_with_a_long_temporary_folder(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / ("long" * 25)
    folder.mkdir()
    typed = ["-m", *TINY, "method=baseline", "seed=0,1", "recipe.epochs=1"]
    script.write_text(UNGUARDED.format(typed))
    variables = environment() | {"TMPDIR": str(folder)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(tmp_path)) == 2
