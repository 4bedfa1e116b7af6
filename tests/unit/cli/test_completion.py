"""Tab completion, with and without a command: options, sweeps, and the user's own files."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from helpers.shell import environment


@pytest.fixture
def complete(kd_bench, monkeypatch):
    """The completions of a line."""

    def call(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        code, printed = kd_bench("-sc", "query=bash")
        assert code == 0
        return printed.split()

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("kd-bench sweep=q", ["sweep=quickstart"]),
        ("kd-bench plan sweep=q", ["sweep=quickstart"]),
        ("kd-bench plan -m seed=0,1 method=srr", ["method=srrl"]),
        ("kd-bench method=at -m recipe.ba", ["recipe.batch_size="]),
        ("kd-bench evaluate x.pt model=resnet8_", ["model=resnet8_half"]),
        ("kd-bench plan teacher=resnet11", ["teacher=resnet110"]),
        ("kd-bench plan assistant=resnet14x", ["assistant=resnet14x4"]),
        ("kd-bench recipe@teacher.recipe=sh", ["recipe@teacher.recipe=short"]),
        ("kd-bench plan hydra/launcher=sl", ["hydra/launcher=slurm"]),
        ("kd-bench plan tu", ["tune"]),
        ("kd-bench tune tri", ["trials="]),
        ("kd-bench tune method=st stu", ["studies="]),
        ("kd-bench tune trials=5 validation=100 method=srr", ["method=srrl"]),
        ("kd-bench plan tune trials=5 val", ["validation="]),
        ("kd-bench plan tri", []),
        ("kd-bench table --fo", ["--format"]),
        ("kd-bench rerun ", ["--data", "--device", "--help", "--runs-dir", "--trust", "-h"]),
        ("kd-bench re", ["recipe.", "recipe=", "report", "rerun"]),
        ("kd-bench method=((", []),
    ],
)
def test_a_line_is_completed(complete, line, answers):
    assert complete(line) == answers


@pytest.mark.slow
def test_the_first_word_may_be_a_command_or_a_group(complete):
    assert {"plan", "status", "method=", "sweep=", "teacher."} <= set(complete("kd-bench "))


def test_status_completes_the_names_of_sweeps(complete, tmp_path):
    (tmp_path / "elsewhere" / ".sweeps").mkdir(parents=True)
    (tmp_path / "elsewhere" / ".sweeps" / "mine-1.jsonl").touch()
    assert complete("kd-bench status runs_dir=elsewhere m") == ["mine-1"]
    assert complete("kd-bench status m") == []


@pytest.mark.parametrize("command", ["", "plan "])
def test_own_files_are_completed(complete, tmp_path, command):
    (tmp_path / "own" / "method").mkdir(parents=True)
    (tmp_path / "own" / "method" / "mine.yaml").touch()
    assert complete(f"kd-bench {command}--config-dir own method=mi") == ["method=mine"]


BASH = """
eval "$(kd-bench -sc install=bash)"
COMP_LINE="kd-bench plan sweep=q"; COMP_WORDS=($COMP_LINE); COMP_CWORD=2
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("kd-bench")), reason="needs bash and the program"
)
def test_bash_completes_after_a_command(tmp_path):
    done = subprocess.run(
        ["bash", "-c", BASH], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "sweep=quickstart", done.stderr
