"""kd-bench push: finished runs in MLflow, trackio, or Weights & Biases."""

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
Copies finished runs into a tracker of experiments, from their records and histories: configuration,
all metrics, and curves over the epochs, grouped by dataset, pair of models, method and seed. No
network is needed. The same command again adds the runs that are new.

  kd-bench push --to mlflow                     to MLFLOW_TRACKING_URI, or mlflow.db
  kd-bench push --to trackio --method st,at     to the database in TRACKIO_DIR
  kd-bench push --to wandb --from results       offline, for `wandb sync`
"""


class Tracker(Protocol):
    """Where runs are pushed."""

    def push(self, run: TrackedRun) -> bool:
        """Make a run unless it is there; whether it was made."""
        ...

    def close(self) -> list[str]:
        """What is left to do, in lines."""
        ...


def main(words: Sequence[str]) -> int:
    """Push finished runs."""
    parser = Parser("push", DESCRIPTION)
    parser.add_argument("--to", choices=TRACKERS, required=True, help="the tracker")
    parser.add_source("runs")
    parser.add_argument(
        "--project", metavar="NAME", default="kd-bench", help="its name there (default: kd-bench)"
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
    print_lines(f"{pluralize(made, 'run')} pushed, of {len(chosen)}", *tracker.close())
    return 0


def _chosen(source: str, choice: Mapping[str, Sequence[str]]) -> list[tuple[Path, Record]]:
    """The finished runs that the filters leave.

    Raises:
        UserError: there are none.
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
