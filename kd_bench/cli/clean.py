"""kd-bench clean: frees what finished jobs no longer need, and shows it first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kd_bench.cli.parser import Parser, existing_runs_dir
from kd_bench.config.schema import BASELINE
from kd_bench.jobs.job import read_jobs, sweep_files
from kd_bench.results.run_folder import (
    CHECKPOINTS,
    CONSOLE,
    SWEEPS,
    TEACHER_CACHES,
    TENSORBOARD,
    WEIGHTS,
    read_record,
)
from kd_bench.results.store import find_jobs
from kd_bench.utils.formatting import format_bytes, pluralize
from kd_bench.utils.lock import STALE_SECONDS, Lock, Locked, lock_owner_text
from kd_bench.utils.output import print_lines

DESCRIPTION = """\
Shows what finished jobs no longer need and how much disk it takes, and with --yes deletes it:
checkpoints and console output of finished jobs, checkpoints set aside as damaged, and files that a
killed process left half written. Records, histories, weights and the event files of TensorBoard
stay, and so does all that unfinished jobs resume from. Folders of running jobs are not touched.
"""


@dataclass(frozen=True)
class Removable:
    """A file that can be deleted."""

    kind: str
    path: Path
    size: int  # bytes


@dataclass(frozen=True)
class CleanOptions:
    """What to delete beyond the files that nobody needs."""

    weights: bool
    tensorboard: bool
    caches: bool
    teachers: frozenset[str]  # folders of jobs, below the runs folder, that keep their weights


def main(arguments: Sequence[str]) -> int:
    """Show what can be deleted, or with --yes delete it."""
    args = _parser().parse(arguments)
    runs = existing_runs_dir(args.runs_dir)
    options = CleanOptions(args.weights, args.tensorboard, args.tables, teachers(runs))
    found, busy = clean(runs, options, delete=args.yes)
    print_lines(*summary(found, args.list))
    if busy:
        caches = ", and teacher caches" if args.tables else ""
        print_lines(f"left alone: {pluralize(len(busy), 'folder')} of running jobs{caches}")
    if found:
        size = format_bytes(sum(each.size for each in found))
        deleted = f"deleted {pluralize(len(found), 'file')}, {size}"
        print_lines(deleted if args.yes else "nothing was deleted; add --yes to delete this")
    return 0


def _parser() -> Parser:
    parser = Parser("clean", DESCRIPTION)
    parser.add_argument("--yes", action="store_true", help="delete it")
    parser.add_argument("--list", action="store_true", help="name every file")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="also the trained weights of students; baselines keep theirs, since each may become"
        " a teacher",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also event files of finished jobs; their numbers are in history.csv, too",
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="also the caches of teachers' outputs, unless a job is running; they are refilled on"
        " demand",
    )
    parser.add_runs_dir("runs", "the folder with the runs (default: runs)")
    return parser


def teachers(runs: Path) -> frozenset[str]:
    """The folders of all jobs that are a teacher in some sweep."""
    jobs = [job for path in sweep_files(runs).values() for job in read_jobs(path)]
    return frozenset(job.teacher.folder for job in jobs if job.teacher is not None)


def clean(runs: Path, options: CleanOptions, *, delete: bool) -> tuple[list[Removable], list[Path]]:
    """Find what can be deleted, and delete it where that is asked for.

    Returns:
        The files, and the folders of running jobs, in which nothing was looked for.
    """
    found: list[Removable] = []
    busy: list[Path] = []
    for job in find_jobs(runs):
        _clean_folder(job, _removable(runs, job, options), found, busy, delete)
    if (runs / SWEEPS).is_dir():
        _clean_folder(runs / SWEEPS, _half_written(runs / SWEEPS), found, busy, delete)
    if options.caches and not busy:
        for cache in sorted((runs / TEACHER_CACHES).glob("*/")):
            _clean_folder(cache, _cache_files(cache), found, busy, delete)
    return found, busy


def _clean_folder(
    folder: Path,
    removable: Iterator[Removable],
    found: list[Removable],
    busy: list[Path],
    delete: bool,
) -> None:
    """Add a folder's removable files to `found`, or the folder to `busy`."""
    if not delete:
        if lock_owner_text(folder):
            busy.append(folder)
        else:
            found += removable
        return
    try:
        with Lock(folder):  # no process starts to work in the folder meanwhile
            for each in removable:
                each.path.unlink()
                found.append(each)
    except Locked:
        busy.append(folder)
    for emptied in (
        folder / TENSORBOARD,
        *([folder] if folder.parent.name == TEACHER_CACHES else []),
    ):
        with suppress(OSError):  # it is not empty, or not there
            emptied.rmdir()


# What can be deleted; found while the folder is locked, so iterators and not lists


def _removable(runs: Path, folder: Path, options: CleanOptions) -> Iterator[Removable]:
    """Files of a job's folder."""
    yield from _half_written(folder)
    for path in sorted(folder.glob("*.damaged")):
        yield _file("damaged checkpoints", path)
    if (record := read_record(folder)) is None:
        return
    for name in CHECKPOINTS:
        yield from _if_exists("checkpoints of finished jobs", folder / name)
    yield from _if_exists("console output of finished jobs", folder / CONSOLE)
    if options.tensorboard:
        for path in sorted((folder / TENSORBOARD).glob("*")):
            yield _file("event files of TensorBoard", path)
    # A finished job is not trained again, so a teacher without weights would be of no use.
    is_baseline = record.config.method.name == BASELINE
    is_teacher = is_baseline or folder.relative_to(runs).as_posix() in options.teachers
    if options.weights and not is_teacher:
        yield from _if_exists("weights of students", folder / WEIGHTS)


def _cache_files(folder: Path) -> Iterator[Removable]:
    """The files of a teacher cache, whether it is complete or not."""
    for path in sorted(folder.iterdir()):
        if path.is_file():  # a folder is the lock
            yield _file("caches of teachers' outputs", path)


def _half_written(folder: Path) -> Iterator[Removable]:
    """Files that a process left half written when it was killed; no recent ones."""
    for path in sorted([*folder.glob(".*.part"), *folder.glob(f".{WEIGHTS}")]):
        with suppress(FileNotFoundError):  # its process has just renamed it
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield _file("files left half written", path)


def _if_exists(kind: str, path: Path) -> Iterator[Removable]:
    if path.exists():
        yield _file(kind, path)


def _file(kind: str, path: Path) -> Removable:
    return Removable(kind, path, path.stat().st_size)


def summary(found: Sequence[Removable], every: bool) -> list[str]:
    """The files in lines: a total for each kind, and with `every` each file."""
    if not found:
        return ["nothing to clean"]
    lines = [f"{format_bytes(each.size):>9}  {each.path}" for each in found if every]
    for kind in dict.fromkeys(each.kind for each in found):
        sizes = [each.size for each in found if each.kind == kind]
        lines.append(f"{format_bytes(sum(sizes)):>9}  {kind} ({pluralize(len(sizes), 'file')})")
    total = format_bytes(sum(each.size for each in found))
    return [*lines, f"{total:>9}  in all ({pluralize(len(found), 'file')})"]
