"""Processes of one job: ranks, results, and the end of all when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.several_processes import place, second_one_fails, second_one_is_lost

from kd_bench.training.distributed.launch import launch
from kd_bench.utils.errors import OwnCodeError, ProcessLost, UserError, failure_reason

pytestmark = pytest.mark.slow


def test_each_process_has_a_rank_and_the_result_is_that_of_rank_0():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert launch(2, place) == (0, 2, 3.0)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("mistake", UserError, "^the second one refuses$"),
        ("bug", OwnCodeError, r"no such thing\.$"),
        ("hung", ProcessLost, "^a process of the job did not respond for 1 h$"),
        ("killed", ProcessLost, r"^process 2 of the job was lost: .*\(SIGKILL\)"),
    ],
)
def test_the_failure_of_one_process_ends_the_others_and_is_raised(capfd, how, error, message):
    with pytest.raises(error, match=message) as failed:
        launch(2, second_one_fails, how)
    assert "elastic" not in capfd.readouterr().err
    if error is OwnCodeError:
        assert failure_reason(failed.value).startswith("LookupError: ")


def test_a_process_that_is_terminated_releases_its_locks(tmp_path, capfd):
    with pytest.raises(ProcessLost, match=r"^process 2 of the job was lost: .*\(SIGKILL\)"):
        launch(2, second_one_is_lost, tmp_path)
    assert (tmp_path / "released").exists()
    assert capfd.readouterr().err == ""


SCRIPT = """
from pathlib import Path
from helpers.several_processes import wait_for_ever
from kd_bench.training.distributed.launch import launch
if __name__ == "__main__":
    launch(2, wait_for_ever, Path({folder!r}))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, number):
    script = tmp_path / "start.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path / "pids")))
    (tmp_path / "pids").mkdir()
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE
    )
    started = wait_until(lambda: list_of(tmp_path / "pids", 2))
    process.send_signal(number)
    process.communicate()
    assert process.returncode in ({-number} if number != signal.SIGINT else {1, -number})
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def list_of(folder: Path, count: int) -> list[str]:
    names = [path.name for path in folder.iterdir()]
    return names if len(names) == count else []


def wait_until(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found
