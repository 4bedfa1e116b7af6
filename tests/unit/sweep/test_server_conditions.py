"""What fork_server.py relies on in CPython; a test fails on a Python where this does not hold.

Each program runs in its own interpreter and needs no PyTorch: the preloaded module replaces the
one that would import it.
"""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

WITHOUT_TORCH = """
import os, sys, types
sys.modules["kd_bench.jobs.runner"] = types.SimpleNamespace(NullReporter=object, run=None)
open("preloaded", "a").write(f"{os.getpid()} ")
"""
START = """
import os, signal, sys, tempfile, time
from multiprocessing import forkserver
from pathlib import Path
from kd_bench.sweep.executors import fork_server

fork_server.PRELOAD = "without_torch"

def server():
    return forkserver._forkserver._forkserver_pid

def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"

def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

def blocked(status):
    mask = int(next(line for line in status.splitlines() if "SigBlk" in line).split()[1], 16)
    return {number for number in fork_server.SIGNALS if mask >> (number - 1) & 1}
"""


def check(program, folder, **variables):
    """Run a program of assertions in a folder; return the output of it and its forks."""
    path = folder / "program.py"  # a script, whose main module has a file
    path.write_text(START + program)
    (folder / "without_torch.py").write_text(WITHOUT_TORCH)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | variables
    command = [sys.executable, str(path)]
    output = folder / "output"  # not a pipe, which a fork that does not end would keep open
    with open(output, "w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        code = process.wait(60)
    finally:
        process.kill()
    assert code == 0, output.read_text()
    return output.read_text()


@pytest.mark.slow
def test_server_gets_the_environment_at_its_start(tmp_path):
    program = """
os.environ.pop("OPENBLAS_NUM_THREADS", None)
before = dict(os.environ)
fork_server.prepare({"OMP_NUM_THREADS": "7", "KD_BENCH_TEST": "new"})
expected = {"OMP_NUM_THREADS=7", "KD_BENCH_TEST=new", "OPENBLAS_NUM_THREADS=1"}
variables = Path(f"/proc/{server()}/environ")  # its parent's until it executes its own program
wait_until(lambda: expected <= set(variables.read_text().split("\\0")))
assert dict(os.environ) == before
"""
    check(program, tmp_path, OMP_NUM_THREADS="3")


@pytest.mark.slow
def test_signals_are_blocked_in_server_and_forks_but_not_in_this_process(tmp_path):
    program = """
fork_server.prepare({})  # also starts the resource tracker, which unblocks two signals
assert blocked(Path(f"/proc/{server()}/status").read_text()) == set(fork_server.SIGNALS)
assert blocked(Path("/proc/self/status").read_text()) == set()
with fork_server._server_conditions({}):
    copy = "cp", ["cp", "/proc/self/status", "fork"]  # a program inherits the mask
    fork = fork_server._CONTEXT.Process(target=os.execvp, args=copy)
    fork.start()
fork.join()
assert blocked(Path("fork").read_text()) == set(fork_server.SIGNALS)
for number in fork_server.SIGNALS:
    os.kill(server(), number)
time.sleep(0.1)
assert state(server()) == "S"
"""
    check(program, tmp_path)


@pytest.mark.slow
def test_server_imports_the_preloaded_module_before_it_forks(tmp_path):
    program = """
for _ in range(2):
    with fork_server._server_conditions({}):
        fork = fork_server._CONTEXT.Process(target=os.getpid)
        fork.start()
    fork.join()
    assert fork.exitcode == 0
assert Path("preloaded").read_text().split() == [str(server())]
"""
    check(program, tmp_path)


@pytest.mark.slow
def test_socket_path_is_short_even_if_the_temporary_folders_is_long(tmp_path):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    program = """
before = tempfile.gettempdir()
assert len(before) > 107  # too long for a socket
fork_server.prepare({})
assert forkserver._forkserver._forkserver_address.startswith("/tmp/")
assert tempfile.gettempdir() == before
"""
    check(program, tmp_path, TMPDIR=str(folder))


# A fork that reads a missing file ends at once, and one that reads a pipe waits forever.
MISSING = "fork_server.ForkedProcess(Path('missing'), 0, Path('log'), {})"
WAITING = "fork_server.ForkedProcess(Path('pipe'), 0, Path('log'), {})"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 searches the folder first")
def test_file_in_the_current_folder_does_not_shadow_a_library_of_the_server(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "selectors.py").write_text("open('imported', 'w')\n")
    program = f"""
os.chdir("{folder}")
fork = {MISSING}
wait_until(lambda: fork.poll() is not None)
assert not Path("imported").exists()
"""
    check(program, tmp_path)


@pytest.mark.slow
def test_fork_does_not_run_the_main_module_again(tmp_path):
    program = f"""
print("main module")
main = sys.modules["__main__"]
fork = {MISSING}
wait_until(lambda: fork.poll() is not None)
assert fork.poll() == 1
assert "cannot read missing" in Path("log").read_text()
assert "main module" not in Path("log").read_text()
assert sys.modules["__main__"] is main
"""
    assert check(program, tmp_path) == "main module\n"


@pytest.mark.slow
def test_fork_of_a_killed_server_ends_as_killed_and_a_new_server_starts(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    program = f"""
fork = {WAITING}
first, pid = server(), fork._process.pid
time.sleep(0.5)  # until it waits for the pipe, and ends with its parent
assert fork.poll() is None
os.kill(first, signal.SIGKILL)
wait_until(lambda: fork.poll() is not None)
assert fork.poll() == -signal.SIGKILL
wait_until(lambda: state(pid) in "ZX")
other = {MISSING}
wait_until(lambda: other.poll() is not None)
assert other.poll() == 1
assert server() != first
assert blocked(Path(f"/proc/{{server()}}/status").read_text()) == set(fork_server.SIGNALS)
"""
    check(program, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["signal.SIGINT", "signal.SIGTERM", "signal.SIGKILL"])
def test_fork_can_be_signalled_immediately_after_its_start(tmp_path, number):
    os.mkfifo(tmp_path / "pipe")
    program = f"""
fork = {WAITING}
fork.signal({number})
wait_until(lambda: fork.poll() is not None)
fork.signal({number})  # it has ended: no error
"""
    check(program, tmp_path)
