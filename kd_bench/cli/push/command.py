"""kd-bench push: copies finished runs to MLflow, trackio, or Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kd_bench.cli.common.parser import Parser
from kd_bench.cli.push.runs import TrackedRun, tracked
from kd_bench.cli.table import add_filters, chosen_filters
from kd_bench.results.record import Record
from kd_bench.results.store import find_placed_records
from kd_bench.utils.errors import DamagedError, require, require_installed, warn
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

TRACKERS = ("mlflow", "trackio", "wandb")

DESCRIPTION = """\
Copies finished runs to an experiment tracker, from their records and histories: configuration, all
metrics, and curves over the epochs, grouped by dataset, pair of models, method and seed. It works
offline. Repeating the command adds new runs.

  kd-bench push --to mlflow                     to MLFLOW_TRACKING_URI, or mlflow.db
  kd-bench push --to trackio --method st,at     to the database in TRACKIO_DIR
  kd-bench push --to wandb --from results       offline, for `wandb sync`
"""


class Tracker(Protocol):
    """The target of a push."""

    def push(self, run: TrackedRun) -> bool:
        """Create a run unless it exists; return whether it was created."""
        ...

    def close(self) -> list[str]:
        """Lines about what the user may do next."""
        ...


def main(words: Sequence[str]) -> int:
    """Push finished runs."""
    parser = Parser("push", DESCRIPTION)
    parser.add_argument("--to", choices=TRACKERS, required=True, help="the tracker")
    parser.add_source("runs")
    parser.add_argument(
        "--project",
        metavar="NAME",
        default="kd-bench",
        help="project in the tracker (default: kd-bench)",
    )
    add_filters(parser)
    args = parser.parse(words)
    require_installed(args.to, f"kd-bench push --to {args.to}", extra=args.to)
    chosen = _chosen(args.source, chosen_filters(args))
    tracker: Tracker = importlib.import_module(f"{__package__}.to_{args.to}").Target(args.project)
    made = 0
    for folder, record in chosen:
        try:
            made += tracker.push(tracked(folder, record))
        except DamagedError as error:
            warn(f"left out: {error}")
    print_lines(f"pushed {made} of {pluralize(len(chosen), 'run')}", *tracker.close())
    return 0


def _chosen(source: str, choice: Mapping[str, Sequence[str]]) -> list[tuple[Path, Record]]:
    """The finished runs that match the filters.

    Raises:
        UserError: there are no finished runs.
    """
    found = list(find_placed_records(source)) if Path(source).is_dir() else []
    require(
        len(found) > 0,
        f"no finished runs in {source}; start some with `kd-bench sweep=quickstart`,"
        " or choose another folder with --from DIR",
    )
    if not choice:
        return found
    from kd_bench.results.select import select_runs, to_frame  # pandas takes half a second

    folders = set(select_runs(to_frame(record for _, record in found), choice)["folder"])
    return [(folder, record) for folder, record in found if record.folder in folders]
