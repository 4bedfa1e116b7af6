"""What must answer at once, such as --help, completion and `status`, never loads torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.paths import PACKAGE, ROOT

from kd_bench.cli.main import COMMANDS

# What a shell loads for --help and for completion, besides the commands.
ENTRANCES = [
    "kd_bench.cli.main",
    "kd_bench.cli.hydra_app",
    "kd_bench.config.compose",
    "kd_bench.config.schema",
    "kd_bench.results.store",
    "kd_bench.sweep.launchers.registry",
]
COMMAND_MODULES = sorted(
    f"kd_bench.cli.{path.stem}"
    for path in (PACKAGE / "cli").glob("*.py")
    if path.stem != "__init__"
)
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn"}


def _printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout.splitlines()[-1]


def _heavy_modules_after(code: str) -> str:
    return _printed(f"{code}\nimport sys; print(sorted({HEAVY} & set(sys.modules)))")


def test_importing_them_loads_no_torch():
    # One process for all of them, in turn: the first one that loads something heavy is named.
    code = (
        "import importlib, sys\n"
        f"for name in {sorted({*ENTRANCES, *COMMAND_MODULES})}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    if heavy: sys.exit(print(name, 'loads', *sorted(heavy)))\n"
        "print('nothing')"
    )
    assert _printed(code) == "nothing"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_no_torch(command):
    code = (
        "import sys, contextlib\n"
        f"sys.argv = ['kd-bench', '{command}', '--help']\n"
        "from kd_bench.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert _heavy_modules_after(code) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["--help"], ["--version"], ["--cfg", "job"]])
def test_what_hydra_answers_by_itself_loads_no_torch(typed):
    code = (
        "import sys, contextlib\n"
        f"sys.argv = ['kd-bench', *{typed}]\n"
        "from kd_bench.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert _heavy_modules_after(code) == "[]"
