"""python tools/publish.py: copy the small records of finished runs from runs/ to results/.

python tools/publish.py --dataset digits      the runs of this table, and their teachers

If other seeds of a published job failed, the reasons are published, so that tables count them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kd_bench.cli.common.parser import Parser
from kd_bench.cli.table import add_filters, chosen_filters
from kd_bench.config.identity import folder_name
from kd_bench.results.record import Record
from kd_bench.results.run_folder import ERROR, HISTORY, RESULT, write_error
from kd_bench.results.select import select_runs, to_frame
from kd_bench.results.store import find_records, read_failures
from kd_bench.results.study import STUDY
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write
from kd_bench.utils.text.output import print_lines

SCRIPT = "tools/publish.py"
# The record comes last: its presence means that the run is published. Only tuned runs have a study.
FILES = (HISTORY, STUDY, RESULT)


def publish_parser() -> Parser:
    """The command line."""
    parser = Parser("publish", str(__doc__))
    parser.prog = f"python {SCRIPT}"
    parser.add_argument("--from", dest="source", default="runs", help="folder with the runs")
    parser.add_argument("--to", default="results", help="folder to copy to")
    add_filters(parser)
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also publish runs of changed or unknown code"
    )
    parser.add_argument(
        "--replace", action="store_true", help="overwrite published runs that differ"
    )
    return parser


def select_folders(records: Iterable[Record], choice: Mapping[str, Sequence[str]]) -> set[str]:
    """The folders of the runs in a table with these filters, and of all their teachers."""
    by_folder = {record.folder: record for record in records}
    if not choice:
        return set(by_folder)
    found: set[str] = set()
    new = set(select_runs(to_frame(by_folder.values()), choice)["folder"])
    while new:
        found |= new
        scores = [by_folder[folder].teacher for folder in new if folder in by_folder]
        new = set().union(*(score.folders for score in scores if score)) - found
    return found


def objection(folder: Path, record: Record, root: Path, allow_dirty: bool) -> str:
    """The reason why a record must not be published; empty if it may."""
    place = folder.relative_to(root).as_posix()
    computed = folder_name(record.identity, record.seed)
    if record.status != "done":
        return f"its status is {record.status}"
    if not place == record.folder == computed:
        return (
            f"it is in {place}, but its record belongs in {record.folder}, and its job in"
            f" {computed}"
        )
    if not (folder / HISTORY).exists():
        return f"it has no {HISTORY}"
    if record.dirty and not allow_dirty:
        return "its code differed from its commit (--allow-dirty publishes it anyway)"
    if record.commit is None and not allow_dirty:
        return "its commit is unknown (--allow-dirty publishes it anyway)"
    return ""


def copy(folder: Path, target: Path, replace: bool) -> str:
    """Copy a run's small files; returns "published", "unchanged", "replaced" or "kept"."""
    contents = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    existing = {name: (target / name).read_bytes() for name in FILES if (target / name).exists()}
    differs = any(existing[name] != contents[name] for name in existing)
    if existing == contents:
        return "unchanged"
    if differs and not replace:
        return "kept"
    target.mkdir(parents=True, exist_ok=True)
    (target / ERROR).unlink(missing_ok=True)  # of an earlier attempt
    for name, content in contents.items():
        atomic_write(target / name, content)
    return "replaced" if differs else "published"


def publish_runs(args: argparse.Namespace) -> dict[str, list[str]]:
    """Copy the selected runs; their folders by outcome."""
    root, target = Path(args.source), Path(args.to)
    runs = list(find_records(root))
    require(len(runs) > 0, f"no finished runs in {root}")
    folders = select_folders([record for _, record in runs], chosen_filters(args))
    outcomes: dict[str, list[str]] = {}
    for folder, record in runs:
        if record.folder not in folders:
            continue
        if reason := objection(folder, record, root, args.allow_dirty):
            outcomes.setdefault("refused", []).append(f"{record.folder}: {reason}")
        else:
            outcome = copy(folder, target / record.folder, args.replace)
            outcomes.setdefault(outcome, []).append(record.folder)
    published = {kind: names for kind, names in outcomes.items() if kind != "refused"}
    jobs = {_job(name) for names in published.values() for name in names}
    for failure in read_failures(root):
        place = target / failure.folder
        if _job(failure.folder) in jobs and not (place / RESULT).exists():
            place.mkdir(parents=True, exist_ok=True)
            write_error(place, failure.reason)
            outcomes.setdefault("failed", []).append(failure.folder)
    return outcomes


def _job(folder: str) -> str:
    """The folder of a job with all its seeds, from that of one of its runs."""
    return folder.rpartition("/seed")[0]


def main(argv: list[str]) -> int:
    """Run the command line; 1 if a record was refused or differs from the published one."""
    outcomes = publish_runs(publish_parser().parse(argv))
    for name in outcomes.get("replaced", []):
        print_lines(f"replaced {name}")
    for name in outcomes.get("kept", []):
        print_lines(f"kept {name}: the published one differs (--replace overwrites it)")
    for text in outcomes.get("refused", []):
        print_lines(f"refused {text}")
    print_lines(", ".join(f"{len(names)} {outcome}" for outcome, names in sorted(outcomes.items())))
    return 1 if "refused" in outcomes or "kept" in outcomes else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
