"""kd-bench report: all results in one HTML file, for a browser."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from kd_bench.cli.common.parser import Parser
from kd_bench.cli.table import write_file
from kd_bench.results.options import METRICS, METRICS_TEXT, check_metric
from kd_bench.results.store import find_placed_records, read_failures
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import format_bytes
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Writes a single HTML file that works offline: a table that can be sorted and filtered, the curves
and the runs behind each cell, and a comparison of two methods over all pairs of models.

  kd-bench report                                the runs in runs/, as report.html
  kd-bench report --from results --out all.html  published records
"""


def report_parser(source: str) -> Parser:
    """The argument parser; `source` is the default folder."""
    parser = Parser("report", DESCRIPTION)
    parser.add_source(source)
    parser.add_argument(
        "--metric",
        metavar="METRIC",
        default=METRICS[0],
        help=f"metric of the table: {METRICS_TEXT} (default: {METRICS[0]})",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("report.html"), help="default: report.html"
    )
    return parser


def write_report(source: str, metric: str, out: Path, command: str) -> None:
    """Write the page of a folder's records, and print its size.

    Raises:
        UserError: there is no record, or the file cannot be written.
    """
    # Imported here because pandas takes half a second, and --help does not need it.
    from kd_bench.results.rendering.report.content import content, with_curves
    from kd_bench.results.rendering.report.page import page
    from kd_bench.results.table import table_from

    runs = with_curves(find_placed_records(source)) if Path(source).is_dir() else []
    require(
        len(runs) > 0,
        f"no finished runs in {source}; start some with `kd-bench sweep=quickstart`,"
        " or choose another folder with --from DIR",
    )
    failures = read_failures(source)
    records = [run.record for run in runs]
    table = table_from(records, failures, metric=metric, command=command)
    text = page(content(table, runs, failures, source, out))
    write_file(out, text)
    print_lines(f"wrote {out} ({format_bytes(len(text.encode()))})")


def main(words: Sequence[str]) -> int:
    """Write the page of the user's own runs."""
    args = report_parser(source="runs").parse(words)
    check_metric(args.metric)
    command = shlex.join(["kd-bench", "report", *words])
    write_report(args.source, args.metric, args.out, command)
    return 0
