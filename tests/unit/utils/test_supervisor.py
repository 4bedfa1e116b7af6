"""Functions that run in their own process: how they ended, and processes that they started."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.shell import environment, is_alive, wait_until

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
from kd_bench.utils.supervisor import Ending, accept_signals, die_with, supervise

def run():
    accept_signals()
    {body}

ending = supervise(run)
print(ending.code, ending.reason, flush=True)
"""
SLEEP = "subprocess.Popen(['sleep', '60'], start_new_session={own})"
# A process that ignores SIGTERM, and whose parent has ended.
DAEMON = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork() and os._exit(0)
open("pid", "w").write(str(os.getpid()))
time.sleep(60)
"""


def supervised(folder: Path, body: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(body=body)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("return Ending(75)", "75 None"),
        ("return Ending(1, 'x' * 501)", f"1 {'x' * 500}"),
        ("os._exit(75)", "1 its process ended with exit code 75 and no result"),
        ("os._exit(255)", "1 its process ended with exit code 255 and no result"),
        ("os._exit(0)", "1 its process ended with exit code 0 and no result"),
        ("sys.exit(130)", "1 its process ended with exit code 130 and no result"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "-11 None"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "-9 None"),
        ("subprocess.run(['true']); return Ending(0)", "0 None"),
    ],
)
def test_an_ending_is_reported_and_an_exit_code_alone_is_an_error(tmp_path, body, printed):
    output, _ = supervised(tmp_path, body).communicate(timeout=30)
    assert output == f"{printed}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path, number):
    body = "Path('ready').touch(); time.sleep(60)"
    process = supervised(tmp_path, body)
    wait_until((tmp_path / "ready").exists, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert output.endswith(f"-{number:d} None\n")


@pytest.mark.parametrize("own", [False, True], ids=["same session", "own session"])
@pytest.mark.parametrize("end", ["return Ending(0)", "os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_processes_started_by_a_function_end_with_it(tmp_path, own, end):
    body = f"child = {SLEEP.format(own=own)}; Path('pid').write_text(str(child.pid)); {end}"
    begin = time.monotonic()
    supervised(tmp_path, body).communicate(timeout=30)
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert time.monotonic() - begin < 10


@pytest.mark.slow
def test_a_daemon_that_ignores_signals_ends_with_the_function(tmp_path):
    body = f"""
    subprocess.run([sys.executable, "-c", {DAEMON!r}])
    while not Path("pid").exists() or not Path("pid").read_text():
        time.sleep(0.02)
    return Ending(0)"""
    output, _ = supervised(tmp_path, body).communicate(timeout=30)
    assert output == "0 None\n"
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_process_ends_with_its_supervisor(tmp_path):
    process = supervised(tmp_path, "Path('pid').write_text(str(os.getpid())); time.sleep(60)")
    pid = int(
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), process)
    )
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
