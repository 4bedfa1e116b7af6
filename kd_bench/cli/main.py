"""The command line: a word such as `status` that is a command of its own, or jobs for Hydra."""

from __future__ import annotations

import importlib
import os
import sys

import kd_bench
from kd_bench.cli import COMMANDS
from kd_bench.utils.errors import UserError, exit_on_user_error


def main() -> None:
    """The program `kd-bench`, and `python -m kd_bench`."""
    # A console script does not look in the current folder, where a user's own losses lie.
    sys.path.insert(0, os.getcwd())
    typed = sys.argv[1:]
    try:
        with exit_on_user_error():
            code = _main(typed)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        print("kd-bench: interrupted; what has begun goes on from its last epoch", file=sys.stderr)
        code = 130
    if code:
        sys.exit(code)


def _main(typed: list[str]) -> int:
    if typed == ["--version"]:
        print(f"kd-bench {kd_bench.__version__}")
        return 0
    if typed and typed[0].isalpha() and typed[0] not in COMMANDS:
        raise UserError(
            f"no command '{typed[0]}'; there are {', '.join(COMMANDS)};"
            " choices and values are typed as group=name and key=value"
        )
    # Each is imported when it is asked for: `status` needs neither Hydra nor torch.
    if typed and typed[0] in COMMANDS:
        return importlib.import_module(f"kd_bench.cli.{typed[0]}").main(typed[1:])
    importlib.import_module("kd_bench.cli.hydra_app").main(typed)
    return 0
