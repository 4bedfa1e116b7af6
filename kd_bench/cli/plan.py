"""kd-bench plan: what a sweep, or a job, would do; nothing is trained, submitted or written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kd_bench.cli.parser import Parser
from kd_bench.utils.errors import require

DESCRIPTION = """\
Shows what a command would do: its jobs, which of them are done, running or failed before, and how
much time and disk the rest takes. Nothing is trained, submitted or written.

Write `plan` before what you would type without it:

  kd-bench plan sweep=quickstart
  kd-bench plan -m method=baseline,st,at seed=0,1,2
  kd-bench plan method=st recipe.epochs=50
  kd-bench plan sweep=predecessor hydra/launcher=slurm

Times are those of like jobs that ran below runs_dir; where there are none the plan says `unknown`.
"""


def main(words: Sequence[str]) -> int:
    """Plan what the words would run."""
    from kd_bench.cli import hydra_app

    if {"-h", "--help"} & set(words):
        parser = Parser("plan", DESCRIPTION)
        parser.usage = "kd-bench plan [sweep=NAME] [-m] [GROUP=CHOICE ...] [KEY=VALUE ...]"
        parser.print_help()
    else:
        hydra_app.main(_without_launcher(words))
    return 0


def _without_launcher(words: Sequence[str]) -> list[str]:
    """The words with the launcher replaced by the one that plans, whoever would launch them.

    What was set of that launcher is handed on: the one that plans takes any key.
    """
    from kd_bench.sweep.launchers import LAUNCHERS

    named = [word for word in words if word.startswith("hydra/launcher=")]
    rest = [
        re.sub(r"^\+*hydra\.launcher\.", "++hydra.launcher.", w) for w in words if w not in named
    ]
    chosen = [word.partition("=")[2] for word in named[-1:]]
    require(
        set(chosen) <= set(LAUNCHERS),
        f"no hydra/launcher '{''.join(chosen)}'; there are {', '.join(LAUNCHERS)}",
    )
    instead_of = [f"hydra.launcher.instead_of={name}" for name in chosen]
    return [*rest, "hydra/launcher=plan", *instead_of]
