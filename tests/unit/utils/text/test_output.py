"""Lines are printed where there is an output, and nowhere else where it is closed."""

import subprocess
import sys

import pytest
from helpers.shell import environment

PROGRAM = """
import sys
from kd_bench.utils.text.output import print_lines, replace_closed_streams
replace_closed_streams()
file = open("mine", "w")  # the first file that is opened, with the first number that is free
print_lines("a line")
print_lines("an error", file=sys.stderr)
sys.stdout.flush(), sys.stderr.flush()
assert not sys.stdout.isatty()
sys.stdin.read()
file.write(str(file.fileno() > 2))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gets_nothing_and_gives_its_place_to_no_file(tmp_path, closed):
    command = f"{sys.executable} -c '{PROGRAM}' {closed}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "a line\n")
    assert done.stderr == ("" if "2>&-" in closed else "an error\n")
    assert (tmp_path / "mine").read_text() == "True"


@pytest.mark.parametrize("words", ["--version", "status", "method=kd"])
def test_a_command_runs_without_output(tmp_path, words):
    command = f"{sys.executable} -m kd_bench {words} >&- 2>&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment())
    assert done.returncode == (0 if words == "--version" else 2)
