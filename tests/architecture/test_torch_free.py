"""What must answer at once, such as --help, completion and `status`, never loads torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.paths import PACKAGE, ROOT

from kd_bench.cli import COMMANDS

# What a shell loads for --help and for completion, besides the commands.
ENTRANCES = [
    "kd_bench.cli.main",
    "kd_bench.cli.hydra_app",
    "kd_bench.config.compose",
    "kd_bench.config.schema",
    "kd_bench.results.store",
    "kd_bench.sweep.launchers",
]
COMMAND_MODULES = sorted(
    f"kd_bench.cli.{path.stem}"
    for path in (PACKAGE / "cli").glob("*.py")
    if path.stem != "__init__"
)
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn"}


def _heavy_modules_after(code: str) -> str:
    report = f"import sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("module", sorted({*ENTRANCES, *COMMAND_MODULES}))
def test_importing_it_loads_no_torch(module):
    assert _heavy_modules_after(f"import {module}") == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_no_torch(command):
    code = (
        "import sys, contextlib\n"
        f"sys.argv = ['kd-bench', '{command}', '--help']\n"
        "from kd_bench.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert _heavy_modules_after(code) == "[]"


@pytest.mark.parametrize("typed", [["--help"], ["--version"], ["--cfg", "job"]])
def test_what_hydra_answers_by_itself_loads_no_torch(typed):
    code = (
        "import sys, contextlib\n"
        f"sys.argv = ['kd-bench', *{typed}]\n"
        "from kd_bench.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert _heavy_modules_after(code) == "[]"
