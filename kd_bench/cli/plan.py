"""kd-bench plan: what a sweep, or a job, would do; nothing is trained, submitted or written."""

from __future__ import annotations

from collections.abc import Sequence

from kd_bench.cli.parser import Parser

DESCRIPTION = """\
Shows what a command would do: its jobs, which of them are done, running or failed before, and how
much time and disk the rest takes. Nothing is trained, submitted or written.

Write `plan` before what you would type without it:

  kd-bench plan sweep=quickstart
  kd-bench plan -m method=baseline,st,at seed=0,1,2
  kd-bench plan method=st recipe.epochs=50
  kd-bench plan sweep=predecessor hydra/launcher=slurm

Times are estimated from similar jobs that finished in runs_dir; without any they are `unknown`.
"""


def main(words: Sequence[str]) -> int:
    """Plan what the words would run."""
    if {"-h", "--help"} & set(words):
        parser = Parser("plan", DESCRIPTION)
        parser.usage = "kd-bench plan [sweep=NAME] [-m] [GROUP=CHOICE ...] [KEY=VALUE ...]"
        parser.print_help()
        return 0
    from kd_bench.cli import hydra_app  # Hydra, which other commands do without

    return hydra_app.main(words, plan=True)
