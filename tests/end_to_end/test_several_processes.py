"""A job in two processes, from the command line: killed, resumed, and its files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.jobs import TINY

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "kd_bench", *TINY]
EPOCHS = 8  # enough to kill a process before the last one
OVERRIDES = ["method=crd", "gpus_per_job=2", f"recipe.epochs={EPOCHS}"]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *OVERRIDES], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def output_of(process: subprocess.Popen) -> str:
    return process.communicate(timeout=300)[0].decode()


def student(folder: Path) -> Path | None:
    return next(folder.glob("runs/*/*/crd/*/seed0"), None)


def last_process(of: subprocess.Popen) -> int:
    """The newest child that multiprocessing has spawned: a process of the job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text().rpartition(")")[2].split()
        if int(fields[1]) == of.pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
            found.append((int(fields[19]), int(path.parent.name)))
    return max(found)[1]


def wait_for_epochs(folder: Path, count: int) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        history = (path := student(folder)) and path / "history.csv"
        if history and history.exists() and len(history.read_text().splitlines()) > count:
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a resumed job, one of whose processes was killed, and of an undisturbed one.

    With the exit code, output, error and number of epochs of the killed run.
    """
    killed, whole = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("whole")
    process = start(killed)
    wait_for_epochs(killed, 2)
    os.kill(last_process(process), signal.SIGKILL)
    printed, code = output_of(process), process.returncode
    error = (student(killed) / "error.txt").read_text()
    done = len((student(killed) / "history.csv").read_text().splitlines()) - 1
    shutil.copytree(killed / "runs", whole / "runs")
    shutil.rmtree(student(whole))
    for folder in (killed, whole):
        again = start(folder)
        assert "done" in output_of(again)
        assert again.returncode == 0
    return killed, whole, (printed, code, error, done)


def test_a_job_ends_with_an_error_when_one_of_its_processes_is_killed(folders):
    *_, (printed, code, error, done) = folders
    assert code == 1
    assert 2 <= done < EPOCHS
    (line,) = (line for line in printed.splitlines() if line.startswith("kd-bench: "))
    assert line.startswith("kd-bench: process 2 of the job was lost: Signal 9 (SIGKILL)")
    assert "Traceback" not in printed
    assert error.startswith("ProcessLost: process ")


def test_a_resumed_job_has_the_same_bits_as_an_uninterrupted_one(folders):
    killed, whole, _ = folders
    one, other = student(killed), student(whole)
    assert one.relative_to(killed) == other.relative_to(whole)
    for name in ("history.csv", "weights.pt", "test_logits.pt"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_one_process_writes_the_files_and_the_record_has_the_number_of_processes(folders):
    killed, _, _ = folders
    left = {path.name for path in student(killed).iterdir()}
    assert left == {"result.json", "weights.pt", "test_logits.pt", "history.csv", "timing.csv"}
    record = json.loads((student(killed) / "result.json").read_text())
    assert record["identity"]["gpus_per_job"] == record["config"]["gpus_per_job"] == 2
    assert record["execution"]["notes"][0].startswith("2 processes, each with batch norm of")
    assert record["images"]["test"] == 24
