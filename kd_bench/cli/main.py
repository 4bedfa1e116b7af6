"""The command line: dispatches commands such as `status`; everything else is a job for Hydra."""

from __future__ import annotations

import os
import sys

import kd_bench
from kd_bench.cli import (
    clean,
    completion,
    export,
    plan,
    prepare,
    report,
    rerun,
    status,
    table,
    tune,
)
from kd_bench.cli.evaluate import command as evaluate
from kd_bench.cli.new import command as new
from kd_bench.cli.push import command as push
from kd_bench.utils.errors import UserError, exit_on_error
from kd_bench.utils.process import trace_crashes
from kd_bench.utils.text.output import print_lines, replace_closed_streams

COMMANDS = {
    "plan": plan.main,
    "tune": tune.main,
    "prepare": prepare.main,
    "status": status.main,
    "table": table.main,
    "report": report.main,
    "rerun": rerun.main,
    "evaluate": evaluate.main,
    "export": export.main,
    "push": push.main,
    "clean": clean.main,
    "new": new.main,
}


def main() -> None:
    """The program `kd-bench`, and `python -m kd_bench`."""
    replace_closed_streams()
    trace_crashes()
    typed = sys.argv[1:]
    try:
        with exit_on_error():
            code = _main(typed)
            sys.stdout.flush()  # now, because errors at interpreter shutdown cannot be caught
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        print_lines(
            "kd-bench: interrupted; the same command resumes from the last epoch", file=sys.stderr
        )
        code = 130
    if code:
        sys.exit(code)


def _main(typed: list[str]) -> int:
    if typed == ["--version"]:
        print_lines(f"kd-bench {kd_bench.__version__}")
        return 0
    if completion.is_query(typed):
        return completion.main(COMMANDS)
    if typed and typed[0] in COMMANDS:
        return COMMANDS[typed[0]](typed[1:])
    if typed and typed[0].isalpha():
        raise UserError(
            f"unknown command '{typed[0]}'; choose from {', '.join(COMMANDS)}; choices and values"
            " are typed as group=name and key=value"
        )
    from kd_bench.cli import hydra_app  # Hydra takes half a second, and `status` does not need it

    return hydra_app.main(typed)
