"""The README's own method, model and data, run exactly as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from throughput import report

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The blocks that begin with a comment that is a file's name."""
    named = ((re.match(r"# (\S+\.(?:py|yaml))\n", text), text) for _, text in BLOCKS)
    return {match[1]: text for match, text in named if match}


def test_the_readme_shows_a_method_a_model_and_data_each_shorter_than_a_screen():
    shown = files()
    assert {Path(name).parent.name for name in shown} == {"", "method", "model", "dataset"}
    assert all(len(text.splitlines()) <= 40 for text in shown.values())


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder outside the repository with the README's files."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_your_own_method_model_and_data_run_as_the_readme_says(outside):
    (line,) = (
        line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()
        if "--config-dir my_conf" in line
    )  # fmt: skip
    arguments = line.removeprefix("kd-bench ").split()
    command = [sys.executable, "-m", "kd_bench", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=outside, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stripes resnet8-plain cosine seed 0: done: " in done.stdout
    assert "stripes plain baseline seed 0: done: " in done.stdout


def test_every_command_of_the_readme_composes(tmp_path):
    from helpers.jobs import composing

    from kd_bench.cli import COMMANDS, hydra_app
    from kd_bench.config import compose

    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    commands = [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("kd-bench")]
    assert len(commands) > 5
    for command in commands:
        words = hydra_app.hydra_arguments(command.replace("FOLDER", str(tmp_path)).split()[1:])
        choices = [w for w in words if "=" in w and "," not in w and not w.startswith("sweep=")]
        if "--config-dir" not in words and not {*words[:1]} & {*COMMANDS}:
            with composing():
                assert compose.compose_job(choices)


def test_the_speed_table_is_what_was_measured():
    measured = json.loads((ROOT / "docs/speed_cpu.json").read_text())
    assert report.markdown(measured) in README
