"""A function in a fork can return a value, and cannot change anything outside its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_bench.utils.isolated import run_isolated


def test_the_result_of_a_function_is_returned():
    assert run_isolated(lambda: {"a": [1, None]}, 10) == {"a": [1, None]}


@pytest.mark.parametrize(
    "end",
    [
        lambda: sys.exit(75),
        lambda: os._exit(255),
        lambda: signal.raise_signal(signal.SIGKILL),
        lambda: time.sleep(60),
    ],
    ids=["exit", "_exit", "killed", "slow"],
)
def test_a_function_that_ends_its_process_or_is_slow_has_no_result(end):
    started = time.monotonic()
    assert run_isolated(end, 0.5) is None
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("new").touch(),
        lambda: Path("new").mkdir(),
        lambda: open("kept", "a").write("more"),  # noqa: SIM115
        lambda: Path("kept").rename("new"),
        lambda: Path("kept").unlink(),
        lambda: subprocess.run(["touch", "new"], check=True),
        lambda: os.system("touch new"),
    ],
    ids=["touch", "mkdir", "append", "rename", "unlink", "subprocess", "system"],
)
def test_a_function_is_stopped_before_it_changes_a_file_or_starts_a_process(
    tmp_path, monkeypatch, change
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text("as it was")
    assert run_isolated(lambda: bool(change() or True), 10) is None
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "as it was"


def test_a_function_may_read_files_and_its_output_is_not_shown(tmp_path, capfd):
    (tmp_path / "file").write_text("text")

    def read() -> str:
        os.write(1, b"printed")
        os.write(2, b"an error")
        return (tmp_path / "file").read_text()

    assert run_isolated(read, 10) == "text"
    assert capfd.readouterr() == ("", "")
