"""kd-bench plan: shows what a sweep or a job would do, without running it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kd_bench.cli import tune
from kd_bench.cli.common.parser import Parser
from kd_bench.cli.table import add_filters, chosen_filters, read_runs
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:  # pandas takes half a second to import, which --help does not need
    from kd_bench.results.table import Column

DESCRIPTION = """\
Shows what a command would do: its jobs, which of them are done, running or failed before, and how
much time and disk space the rest takes. Nothing is trained, submitted or written.

Add `plan` to a command that runs jobs:

  kd-bench plan sweep=quickstart
  kd-bench plan -m method=baseline,st,at seed=0,1,2
  kd-bench plan method=st recipe.epochs=50
  kd-bench plan sweep=predecessor hydra/launcher=slurm
  kd-bench plan tune method=st trials=5 studies=3

Times are estimated from similar finished jobs in runs_dir; without any, they are `unknown`.

The number of seeds needed to detect a difference of 0.3 points, given the standard deviation of
finished runs:

  kd-bench plan --detect 0.3
  kd-bench plan --detect 0.3 --methods 10 --from results --dataset digits
"""
DETECT, METHODS = "--detect", "--methods"


def main(words: Sequence[str]) -> int:
    """Plan the jobs of a command, or the number of seeds needed to detect a difference."""
    if {"-h", "--help"} & set(words):
        parser = Parser("plan", DESCRIPTION)
        parser.usage = (
            "kd-bench plan [tune] [sweep=NAME] [-m] [GROUP=CHOICE ...] [KEY=VALUE ...]\n"
            "       kd-bench plan --detect POINTS [--methods N] [--from DIR] [FILTER ...]"
        )
        _add_options(parser)
        parser.print_help()
        return 0
    options = {word.partition("=")[0] for word in words}
    if DETECT in options:
        return _plan_seeds(words)
    require(METHODS not in options, f"{METHODS} needs {DETECT} POINTS")
    from kd_bench.cli import hydra_app  # Hydra, which other commands do not need

    return hydra_app.main(hydra_words(words), plan=True)


def hydra_words(words: Sequence[str]) -> Sequence[str]:
    """The words as Hydra's application takes them, with or without `tune` before them."""
    return tune.hydra_words(words[1:]) if words[:1] == ["tune"] else words


def _add_options(parser: Parser) -> None:
    parser.add_argument(
        DETECT, type=float, metavar="POINTS", help="show the number of seeds to detect this"
    )
    parser.add_argument(
        METHODS,
        type=int,
        default=1,
        metavar="N",
        help="number of methods in the table, to correct for multiple comparisons (default: 1)",
    )
    parser.add_source("runs", ", whose standard deviation is used")
    add_filters(parser)


def _plan_seeds(words: Sequence[str]) -> int:
    """Print the number of seeds to detect a difference, per column of the finished runs' table."""
    parser = Parser("plan", DESCRIPTION)
    _add_options(parser)
    args = parser.parse(words)
    require(0 < args.detect < math.inf, f"{DETECT} must be above 0 and finite, got {args.detect:g}")
    require(args.methods >= 1, f"{METHODS} must be at least 1, got {args.methods}")
    from kd_bench.results.table import table_from

    table = table_from(*read_runs(args.source), choice=chosen_filters(args))
    known = [column for column in table.columns if column.deviation]
    require(
        bool(known),
        f"the standard deviation is unknown: no method in {args.source} has two seeds; run some"
        " first, such as kd-bench -m method=baseline,st seed=0,1,2",
    )
    corrected = f", corrected for {args.methods} methods" if args.methods > 1 else ""
    print_lines(
        f"Seeds per method and for the baseline to detect a difference of {args.detect:g} points"
        f" with 80 % power (two-sided 95 %{corrected}, noncentral t):",
        *_seeds_by_column(known, args.detect, args.methods),
    )
    return 0


def _seeds_by_column(columns: Sequence[Column], points: float, methods: int) -> Iterator[str]:
    """A line per column: "digits resnet20-resnet8: 12 seeds (SD 0.31, 6 degrees of freedom)"."""
    from kd_bench.results.analysis.statistics import MOST_SEEDS, seeds_to_detect

    for column in columns:
        assert column.deviation is not None  # the caller filters the columns
        sd, df = column.deviation.sd, column.deviation.df
        seeds = seeds_to_detect(sd, points, methods)
        needed = pluralize(seeds, "seed") if seeds else f"more than {MOST_SEEDS:,} seeds"
        yield f"{column.label}: {needed} (SD {sd:.2f}, {pluralize(df, 'degree')} of freedom)"
