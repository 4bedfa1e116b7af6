"""kd-bench table: the results table of your own runs or of any folder with records."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kd_bench.cli.common.parser import Parser
from kd_bench.results.options import (
    COSTS,
    COSTS_TEXT,
    FILTERS,
    FORMAT_NAMES,
    METRIC,
    METRICS,
    METRICS_TEXT,
    TableOptions,
    check_cost,
    check_metric,
)
from kd_bench.results.published.values import read_published
from kd_bench.results.record import Failure, Record
from kd_bench.results.store import read_failures, read_records
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:  # pandas takes half a second to import, which --help does not need
    from kd_bench.results.figures.cost import Costs
    from kd_bench.results.table import Table

Runs = tuple[list[Record], list[Failure]]

DESCRIPTION = """\
Prints a results table: one row per method and one column per dataset and pair of models. A cell has
the mean accuracy over the seeds, its standard deviation and the difference from the baseline.

  kd-bench table                                     the runs in runs/
  kd-bench table --dataset digits --method st,at     some of them
  kd-bench table --metric nll                        negative log-likelihood, not accuracy
  kd-bench table --format latex --note "Our runs."   for a paper
  kd-bench table --csv cells.csv --figure cells.svg  also as files
  kd-bench table --method st --plot temperature.svg  accuracy against the swept values
  kd-bench table --summary --profile profile.svg     methods over all pairs
  kd-bench table --cost-figure cost.svg              accuracy against seconds of training
  kd-bench table --published                         with values from papers
  kd-bench table --from results                      published records
"""


def main(words: Sequence[str]) -> int:
    """Print a table, and write the requested files."""
    parser = Parser("table", DESCRIPTION)
    add_table_options(parser, source="runs")
    options = table_options(parser.parse(words))
    print_table(options, make_table(options, shlex.join(["kd-bench", "table", *words])))
    return 0


def add_table_options(parser: Parser, source: str) -> None:
    """Add the options for `table_options`; `source` is the default folder."""
    parser.add_source(source)
    add_filters(parser)
    parser.add_argument(
        "--metric",
        metavar="METRIC",
        default=METRICS[0],
        help=f"the metric to show: {METRICS_TEXT} (default: {METRICS[0]})",
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="a sentence for the caption")
    parser.add_argument(
        "--format",
        choices=FORMAT_NAMES,
        help=f"format of the printed table (default: {FORMAT_NAMES[0]})",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the cells to a file")
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="also draw the differences from the baseline as an SVG file",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also plot accuracy against the swept values of each method as an SVG file",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="also plot performance profiles (share of pairs within a distance of the best) as an"
        " SVG file",
    )
    parser.add_argument(
        "--cost-figure",
        type=Path,
        metavar="FILE",
        help="also plot accuracy against the cost of training as an SVG file",
    )
    parser.add_argument(
        "--cost",
        metavar="COST",
        default=COSTS[0],
        help=f"the cost in --cost-figure: {COSTS_TEXT} (default: {COSTS[0]})",
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="also rank the methods over all pairs, with the mean difference from the baseline",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="also show the values that papers report for the same pairs",
    )
    parser.add_argument(
        "--untuned", action="store_true", help="leave out the rows made by `kd-bench tune`"
    )


def add_filters(parser: Parser) -> None:
    """Add an option for each filter, for `chosen_filters`."""
    for kind in FILTERS:
        parser.add_argument(
            f"--{kind}",
            metavar="NAMES",
            type=lambda text: text.split(","),
            help=f"only this {kind}, or several: a,b,c",
        )


def chosen_filters(args: Namespace) -> dict[str, Sequence[str]]:
    """The names given for each filter."""
    return {kind: names for kind in FILTERS if (names := getattr(args, kind))}


def table_options(args: Namespace) -> TableOptions:
    """The parsed options of `add_table_options`.

    Raises:
        UserError: the metric or the cost is unknown, or a figure's name does not end with .svg.
    """
    check_metric(args.metric)
    _check_corruption(args.metric)
    check_cost(args.cost)
    for name in ("figure", "plot", "profile", "cost-figure"):
        file = getattr(args, name.replace("-", "_"))
        require(
            file is None or file.suffix == ".svg",
            f"--{name} writes SVG, so the file name must end with .svg, got {file}",
        )
    return TableOptions(
        source=args.source,
        choice=chosen_filters(args),
        metric=args.metric,
        note=args.note,
        format=args.format,
        csv=args.csv,
        figure=args.figure,
        plot=args.plot,
        profile=args.profile,
        cost_figure=args.cost_figure,
        cost=args.cost,
        summary=args.summary,
        published=args.published,
        untuned=args.untuned,
    )


def _check_corruption(metric: str) -> None:
    kind, _, name = metric.partition(":")
    if kind == "corrupted" and name:
        from kd_bench.jobs.evaluation.corruptions.catalogue import CORRUPTIONS, EXTRA

        known = [*CORRUPTIONS, *EXTRA]
        require(name in known, f"unknown corruption '{name}'; choose from {', '.join(known)}")


def read_runs(folder: str) -> Runs:
    """The records and failures in a folder and its subfolders.

    Raises:
        UserError: there is no record.
    """
    records = read_records(folder) if Path(folder).is_dir() else []
    require(
        len(records) > 0,
        f"no finished runs in {folder}; start some with `kd-bench sweep=quickstart`,"
        " or choose another folder with --from DIR",
    )
    return records, read_failures(folder)


def make_table(
    options: TableOptions, command: str, read: Callable[[str], Runs] = read_runs
) -> Table:
    """The table for the options.

    Args:
        options: what to show.
        command: the command line, shown below the table.
        read: returns the records and failures of a folder.
    """
    from kd_bench.results.rendering.beside import published_for
    from kd_bench.results.table import table_from

    records, failures = read(options.source)
    table = table_from(
        [each for each in records if not (options.untuned and each.study)],
        [each for each in failures if not (options.untuned and each.study)],
        metric=options.metric,
        choice=options.choice,
        note=options.note,
        command=command,
    )
    if not options.published:
        return table
    require(
        METRIC[options.metric].is_accuracy,
        f"published values are accuracies, which cannot be compared with {options.metric};"
        " leave out --published or --metric",
    )
    values = published_for(table, read_published(), options.choice.get("method", ()))
    return replace(table, published=values)


def extra_files(
    options: TableOptions, table: Table, read: Callable[[str], Runs] = read_runs
) -> dict[Path, str]:
    """The contents of the requested files, in addition to the printed table.

    Args:
        options: what to write.
        table: from `make_table`.
        read: as in `make_table`.
    """
    from kd_bench.results.figures import cost, differences, profile, swept_values
    from kd_bench.results.rendering.tables import render_table

    files = {}
    if options.csv is not None:
        files[options.csv] = render_table(table, "csv")
    if options.figure is not None:
        files[options.figure] = differences.svg(table)
    if options.plot is not None:
        files[options.plot] = swept_values.svg(table)
    if options.profile is not None:
        files[options.profile] = profile.svg(table)
    if options.cost_figure is not None:
        files[options.cost_figure] = cost.svg(table, _costs(options, table, read))
    return files


def _costs(options: TableOptions, table: Table, read: Callable[[str], Runs]) -> Costs:
    from kd_bench.results.figures import cost

    if options.cost not in COSTS:
        return cost.measured(Path(options.cost), table)
    chosen = replace(options, metric=options.cost, published=False)
    return cost.recorded(make_table(chosen, "", read))


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, and create its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def table_text(options: TableOptions, table: Table) -> str:
    """The table, with the summary below it if requested, in the chosen format."""
    from kd_bench.results.rendering.summaries import render_summary
    from kd_bench.results.rendering.tables import render_table

    format_name = options.format or FORMAT_NAMES[0]
    texts = [render_table(table, format_name)]
    if options.summary:
        texts.append(render_summary(table, format_name))
    return "\n".join(texts)


def print_table(options: TableOptions, table: Table) -> None:
    """Print a table, and write the requested files."""
    text, files = table_text(options, table), extra_files(options, table)
    print_lines(*text.splitlines())
    for path, content in files.items():
        write_file(path, content)
        print_lines(f"wrote {path}", file=sys.stderr)
