"""Commands that must start fast, such as --help, completion and `status`, never import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.paths import PACKAGE, ROOT

from kd_bench.cli.main import COMMANDS

# Imported for --help and completion, besides the commands
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
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "pandas"}


def _all_printed(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout.splitlines()


def _printed(code: str) -> str:
    return _all_printed(code)[-1]


@pytest.mark.slow
def test_importing_the_commands_loads_no_torch():
    # In one process: the message has the first module that imports something heavy.
    code = (
        "import importlib, sys\n"
        f"for name in {sorted({*ENTRANCES, *COMMAND_MODULES})}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    if heavy: sys.exit(print(name, 'loads', *sorted(heavy)))\n"
        "import kd_bench.results.markdown, kd_bench.results.rendering.tables  # load pandas\n"
        "print('torch' if 'torch' in sys.modules else 'nothing')"
    )
    assert _printed(code) == "nothing"


@pytest.mark.slow
def test_help_of_no_command_loads_torch():
    # In one process: the message has the first command that imports something heavy.
    code = (
        "import sys, contextlib\n"
        "from kd_bench.cli.main import main\n"
        f"for command in {sorted(COMMANDS)}:\n"
        "    sys.argv = ['kd-bench', command, '--help']\n"
        "    with contextlib.suppress(SystemExit): main()\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    if heavy: sys.exit(print(command, 'loads', *sorted(heavy)))\n"
        "print('nothing')"
    )
    assert _printed(code) == "nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "answer"),
    [(["--help"], "resnet8"), (["--version"], "kd-bench"), (["--cfg", "job"], "resnet8")],
    ids=str,
)
def test_flags_that_hydra_answers_load_no_torch(typed, answer):
    code = (
        "import sys\n"
        f"sys.argv = ['kd-bench', *{typed}]\n"
        "from kd_bench.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None)\n"
        f"print(*sorted({HEAVY} & set(sys.modules)) or ['nothing'])"
    )
    printed = _all_printed(code)
    assert printed[-1] == "nothing"
    assert any(answer in line for line in printed[:-1])
