"""Lines are printed to open streams, and lost without an error if a stream is closed."""

import subprocess
import sys

import pytest
from helpers.shell import environment

PROGRAM = """
import sys
from kd_bench.utils.text.output import print_lines, replace_closed_streams
replace_closed_streams()
file = open("mine", "w")  # the first file to be opened gets the lowest free number
print_lines("a line")
print_lines("an error", file=sys.stderr)
sys.stdout.flush(), sys.stderr.flush()
assert not sys.stdout.isatty()
sys.stdin.read()
file.write(str(file.fileno() > 2))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path, closed):
    command = f"{sys.executable} -c '{PROGRAM}' {closed}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "a line\n")
    assert done.stderr == ("" if "2>&-" in closed else "an error\n")
    assert (tmp_path / "mine").read_text() == "True"


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--version", "status", "method=kd"])
def test_a_command_runs_without_output(tmp_path, words):
    command = f"{sys.executable} -m kd_bench {words} >&- 2>&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment())
    assert done.returncode == (0 if words == "--version" else 2)
