"""kd-bench clean: frees what finished jobs no longer need, and shows it first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kd_bench.cli.parser import Parser, existing_runs_dir
from kd_bench.config.schema import BASELINE
from kd_bench.jobs.job import FOLDER, read_jobs, sweep_files
from kd_bench.results.run_folder import CHECKPOINTS, TABLES, WEIGHTS, read_result
from kd_bench.results.store import find_jobs
from kd_bench.utils import formatting
from kd_bench.utils.lock import STALE_SECONDS, Lock, Locked, lock_owner_text

DESCRIPTION = """\
Shows what finished jobs no longer need and how much disk it takes, and with --yes deletes it:
checkpoints and console output of finished jobs, checkpoints set aside as damaged, and files that a
killed process left half written. Records, histories, weights and the event files of TensorBoard
stay, and so does all that unfinished jobs go on from. Where a process works, nothing is touched.
"""

EVENTS = "tensorboard"  # the folder of a job's event files


@dataclass(frozen=True)
class Removable:
    """A file that can go."""

    kind: str
    path: Path
    size: int  # bytes


@dataclass(frozen=True)
class CleanOptions:
    """What shall go beyond what nobody needs."""

    weights: bool
    tensorboard: bool
    teachers: frozenset[str]  # folders of jobs, below the runs folder, that keep their weights


def main(arguments: Sequence[str]) -> int:
    """Show what can go, and with --yes delete it."""
    args = _parser().parse(arguments)
    runs = existing_runs_dir(args.runs_dir)
    choice = CleanOptions(args.weights, args.tensorboard, teachers(runs))
    jobs = list(find_jobs(runs))
    busy = {job for job in jobs if lock_owner_text(job)}
    waste = [each for job in jobs if job not in busy for each in find_removable(runs, job, choice)]
    waste += half_written(runs / FOLDER)
    if args.tables and not busy:
        waste += view_tables(runs)
    print("\n".join(summary(waste, args.list)))
    if busy:
        tables = ", and view tables" if args.tables else ""
        print(
            f"left alone: {formatting.pluralize(len(busy), 'folder')} in which a process works{tables}"
        )
    if waste and args.yes:
        gone = delete(runs, waste, choice)
        print(
            f"deleted {formatting.pluralize(len(gone), 'file')}, {formatting.format_bytes(sum(w.size for w in gone))}"
        )
    elif waste:
        print("nothing was deleted; add --yes to delete this")
    return 0


def _parser() -> Parser:
    parser = Parser("clean", DESCRIPTION)
    parser.add_argument("--yes", action="store_true", help="delete it")
    parser.add_argument("--list", action="store_true", help="name every file")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="also the trained weights of students; a baseline keeps its own, for it may be the"
        " teacher of a job to come",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also event files of finished jobs; the numbers in them are in history.csv, too",
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="also teachers' view tables, unless a job is at work; who needs one makes it anew",
    )
    parser.add_runs_dir("runs", "the folder with the runs (default: runs)")
    return parser


# What can go


def teachers(runs: Path) -> frozenset[str]:
    """The folders of all jobs that are a teacher in some sweep."""
    jobs = (job for path in sweep_files(runs).values() for job in read_jobs(path))
    return frozenset(job.after for job in jobs if job.after is not None)


def find_removable(runs: Path, folder: Path, choice: CleanOptions) -> Iterator[Removable]:
    """What can go of a job's folder."""
    yield from half_written(folder)
    for path in sorted(folder.glob("*.damaged")):
        yield _waste("damaged checkpoints", path)
    if (record := read_result(folder)) is None:
        return
    for name in CHECKPOINTS:
        yield from _if_there("checkpoints of finished jobs", folder / name)
    yield from _if_there("console output of finished jobs", folder / "console.log")
    if choice.tensorboard:
        for path in sorted((folder / EVENTS).glob("*")):
            yield _waste("event files of TensorBoard", path)
    # A finished job is not trained again, so a teacher without weights would be of no use.
    is_baseline = record["config"]["method"]["name"] == BASELINE["name"]
    is_teacher = is_baseline or folder.relative_to(runs).as_posix() in choice.teachers
    if choice.weights and not is_teacher:
        yield from _if_there("weights of students", folder / WEIGHTS)


def view_tables(runs: Path) -> Iterator[Removable]:
    """The files of all view tables, finished or not."""
    for folder in sorted((runs / TABLES).glob("*/")):
        for path in sorted(folder.iterdir()):
            if path.is_file():  # or else the lock of a process that makes it
                yield _waste("view tables of teachers", path)


def half_written(folder: Path) -> Iterator[Removable]:
    """Files that were to appear whole but whose process ended before; no fresh ones."""
    for path in sorted([*folder.glob(".*.part"), *folder.glob(f".{WEIGHTS}")]):
        with suppress(FileNotFoundError):  # it was finished just now
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield _waste("files left half written", path)


def _if_there(kind: str, path: Path) -> Iterator[Removable]:
    if path.exists():
        yield _waste(kind, path)


def _waste(kind: str, path: Path) -> Removable:
    return Removable(kind, path, path.stat().st_size)


def summary(waste: Sequence[Removable], every: bool) -> list[str]:
    """What can go in lines: by kind, or every file."""
    if not waste:
        return ["nothing to clean"]
    lines = [f"{formatting.format_bytes(each.size):>9}  {each.path}" for each in waste if every]
    for kind in dict.fromkeys(each.kind for each in waste):
        sizes = [each.size for each in waste if each.kind == kind]
        lines.append(
            f"{formatting.format_bytes(sum(sizes)):>9}  {kind} ({formatting.pluralize(len(sizes), 'file')})"
        )
    total = formatting.format_bytes(sum(each.size for each in waste))
    return [*lines, f"{total:>9}  in all ({formatting.pluralize(len(waste), 'file')})"]


# Deleting


def delete(runs: Path, waste: Sequence[Removable], choice: CleanOptions) -> list[Removable]:
    """Delete what was found, as far as it can still go; what was deleted."""
    gone = [each for each in half_written(runs / FOLDER) if each in waste]
    _unlink(gone)
    folders = {each.path.parent for each in waste} - {runs / FOLDER}
    tables = {folder for folder in folders if folder.parent == runs / TABLES}
    for table in sorted(tables):
        with suppress(Locked), Lock(table):
            found = [each for each in waste if each.path.parent == table and each.path.exists()]
            _unlink(found)
            gone += found
        with suppress(OSError):  # not empty: somebody makes it anew
            table.rmdir()
    folders -= tables
    for job in sorted(folder.parent if folder.name == EVENTS else folder for folder in folders):
        # Nobody begins to work in the folder meanwhile; and what can go is looked for again, for
        # much may have happened since it was shown.
        with suppress(Locked), Lock(job):
            found = [each for each in find_removable(runs, job, choice) if each in waste]
            _unlink(found)
            gone += found
    return gone


def _unlink(waste: Sequence[Removable]) -> None:
    for each in waste:
        each.path.unlink()
        if each.path.parent.name == EVENTS and not any(each.path.parent.iterdir()):
            each.path.parent.rmdir()
