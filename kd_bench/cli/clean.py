"""kd-bench clean: lists files that finished jobs no longer need, and deletes them on request.

Links are not followed: neither a link nor its target is deleted.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kd_bench.cli.common.parser import Parser, existing_runs_dir
from kd_bench.config.schema import BASELINE
from kd_bench.jobs.job import read_jobs, sweep_files
from kd_bench.results.record import Record
from kd_bench.results.run_folder import (
    CACHE_RECORD,
    CHECKPOINTS,
    CONSOLE,
    SWEEPS,
    TEACHER_CACHES,
    TENSORBOARD,
    TEST_LOGITS,
    WEIGHTS,
    find_record,
    read_record,
)
from kd_bench.results.store import find_jobs
from kd_bench.utils.errors import DISK_FULL, UserError, warn
from kd_bench.utils.lock import STALE_SECONDS, Lock, Locked, leftovers, lock_owner_text
from kd_bench.utils.text.formatting import format_bytes, pluralize
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Lists the files that finished jobs no longer need, with their sizes; --yes deletes them. These are
checkpoints and console output of finished jobs, files set aside as damaged, and partially written
files and locks of killed processes. Records, histories, weights, logits and TensorBoard's event
files are kept, and so is everything that unfinished jobs need to resume. Folders of running jobs
are skipped, and links are not followed.
"""


@dataclass(frozen=True)
class Removable:
    """A file that can be deleted."""

    kind: str
    path: Path
    size: int  # bytes


@dataclass(frozen=True)
class CleanOptions:
    """What to delete in addition to the files that are never needed."""

    weights: bool
    logits: bool
    tensorboard: bool
    caches: bool
    teachers: frozenset[str]  # folders of jobs that keep their weights, relative to runs_dir


def main(arguments: Sequence[str]) -> int:
    """List what can be deleted, or delete it with --yes."""
    args = _parser().parse(arguments)
    runs = existing_runs_dir(args.runs_dir)
    known = frozenset[str]()
    if args.weights:
        try:
            known = teachers(runs)
        except UserError as error:  # it is unknown which weights belong to teachers
            warn(f"--weights is ignored: {error}")
            args.weights = False
    options = CleanOptions(args.weights, args.logits, args.tensorboard, args.tables, known)
    found, busy = clean(runs, options, delete=args.yes)
    print_lines(*summary(found, args.list))
    if busy:
        caches = ", and teacher caches" if args.tables else ""
        print_lines(f"skipped: {pluralize(len(busy), 'folder')} of running jobs{caches}")
    if found:
        size = format_bytes(sum(each.size for each in found))
        deleted = f"deleted {pluralize(len(found), 'file')}, {size}"
        print_lines(deleted if args.yes else "nothing was deleted; add --yes to delete these files")
    return 0


def _parser() -> Parser:
    parser = Parser("clean", DESCRIPTION)
    parser.add_argument("--yes", action="store_true", help="delete the files")
    parser.add_argument("--list", action="store_true", help="list every file")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="also the trained weights of students; baselines keep theirs, because any of them may"
        " become a teacher",
    )
    parser.add_argument(
        "--logits",
        action="store_true",
        help="also the logits for all test images; metrics computed from them are in the records",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also event files of finished jobs; history.csv has the same numbers",
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="also the caches of teachers' outputs, unless a job is running; they are refilled when"
        " needed",
    )
    parser.add_runs_dir("runs", "the folder with the runs (default: runs)")
    return parser


def teachers(runs: Path) -> frozenset[str]:
    """The folders of all jobs that are teachers in a sweep or of a finished job.

    Raises:
        UserError: a sweep's file cannot be read.
    """
    jobs = [job for path in sweep_files(runs).values() for job in read_jobs(path)]
    wanted = {teacher.folder for job in jobs for teacher in job.ancestors()}
    scores = [record.teacher for job in find_jobs(runs) if (record := _record(job))]
    return frozenset(wanted.union(*(score.folders for score in scores if score)))


def _record(folder: Path) -> Record | None:
    """A job's record; None also if it cannot be read, which `clean` reports later."""
    try:
        return read_record(folder)
    except UserError:
        return None


def clean(runs: Path, options: CleanOptions, *, delete: bool) -> tuple[list[Removable], list[Path]]:
    """Find what can be deleted, and delete it if `delete`.

    Returns:
        The files, and the folders of running jobs, which were skipped.
    """
    found: list[Removable] = []
    busy: list[Path] = []
    for job in find_jobs(runs):
        _clean_folder(job, _removable(runs, job, options), found, busy, delete)
    if _inside(runs / SWEEPS):
        _clean_folder(runs / SWEEPS, _partial(runs / SWEEPS), found, busy, delete)
    is_whole = options.caches and not busy
    for cache in sorted(_inside(runs / TEACHER_CACHES)):
        if not cache.is_symlink() and cache.is_dir():
            whole = _files("caches of teachers' outputs", cache.iterdir())
            _clean_folder(cache, whole if is_whole else _partial_cache(cache), found, busy, delete)
    if options.tensorboard:
        _clean_links(runs, found, delete)
    return found, busy


def _clean_links(runs: Path, found: list[Removable], delete: bool) -> None:
    """Add to `found` TensorBoard's links to runs whose event files are gone or in `found`."""
    going = {each.path for each in found}
    if (runs / TENSORBOARD).is_symlink():
        return
    for folder, folders, files in os.walk(runs / TENSORBOARD, topdown=False):
        for link in sorted(Path(folder) / name for name in (*folders, *files)):
            target = _target_in(runs, link)
            if target is not None and going.issuperset(_inside(target)):
                found.append(_file("links to deleted event files", link))
                if delete:
                    link.unlink()
        if delete and Path(folder) != runs / TENSORBOARD:
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()


def _target_in(runs: Path, link: Path) -> Path | None:
    """The target of a link if it is inside the runs folder; otherwise None."""
    if not link.is_symlink():
        return None
    target = Path(os.path.normpath(link.parent / os.readlink(link)))
    return target if runs in target.parents else None


def _clean_folder(
    folder: Path,
    removable: Iterator[Removable],
    found: list[Removable],
    busy: list[Path],
    delete: bool,
) -> None:
    """Add a folder's removable files to `found`, or the folder to `busy` if it is locked."""
    if lock_owner_text(folder):
        busy.append(folder)
        return
    locks = [Removable("locks of killed processes", path, 0) for path in leftovers(folder)]
    if not delete:
        found += [*locks, *removable]
        return
    try:
        with _locked(folder):  # so that no process starts to work in the folder meanwhile
            found += locks  # removed by acquiring the lock
            for each in removable:
                each.path.unlink()
                found.append(each)
    except Locked:
        busy.append(folder)
    except (OSError, UserError) as error:
        warn(f"skipped: {folder}: {error}")
    for emptied in (
        folder / TENSORBOARD,
        *([folder] if folder.parent.name == TEACHER_CACHES else []),
    ):
        with suppress(OSError):  # it is not empty, or does not exist
            emptied.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, unless the disk is full and has no space for it."""
    with ExitStack() as held:
        try:
            held.enter_context(Lock(folder))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
        yield


# What can be deleted. These are iterators, not lists, so that files are searched under the lock.


def _removable(runs: Path, folder: Path, options: CleanOptions) -> Iterator[Removable]:
    """Files in a job's folder."""
    yield from _partial(folder)
    yield from _files("files set aside as damaged", folder.glob("*.damaged"))
    if (record := find_record(folder)) is None:
        return
    yield from _files("checkpoints of finished jobs", [folder / name for name in CHECKPOINTS])
    yield from _files("console output of finished jobs", [folder / CONSOLE])
    if options.logits:
        yield from _files("logits for test images", [folder / TEST_LOGITS])
    if options.tensorboard:
        yield from _files("event files of TensorBoard", _inside(folder / TENSORBOARD))
    # A finished job is not trained again, so a teacher without weights would be useless.
    is_baseline = record.config.method.name == BASELINE
    is_teacher = is_baseline or folder.relative_to(runs).as_posix() in options.teachers
    if options.weights and not is_teacher:
        yield from _files("weights of students", [folder / WEIGHTS])


def _partial(folder: Path) -> Iterator[Removable]:
    """Partially written files of killed processes; recent files are skipped."""
    paths = [*folder.glob(".*.part"), *folder.glob(".*.writable")]
    for each in _files("partially written files", paths):
        with suppress(FileNotFoundError):  # the writing process has just renamed it
            if time.time() - each.path.lstat().st_mtime > STALE_SECONDS:
                yield each


def _partial_cache(cache: Path) -> Iterator[Removable]:
    """Partially written files of a cache; rows only if it is complete, since filling resumes."""
    yield from _partial(cache)
    if (cache / CACHE_RECORD).exists():
        yield from _files("partially written files", cache.glob("rows.*.part"))


def _inside(folder: Path) -> list[Path]:
    """The entries of a folder; none if it is a link or does not exist."""
    return [] if folder.is_symlink() or not folder.is_dir() else list(folder.iterdir())


def _files(kind: str, paths: Iterable[Path]) -> Iterator[Removable]:
    """The paths that are regular files."""
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                yield _file(kind, path)


def _file(kind: str, path: Path) -> Removable:
    return Removable(kind, path, path.lstat().st_size)


def summary(found: Sequence[Removable], every: bool) -> list[str]:
    """Lines with the total of each kind of file and, with `every`, one for each file."""
    if not found:
        return ["nothing to clean"]
    lines = [f"{format_bytes(each.size):>9}  {each.path}" for each in found if every]
    for kind in dict.fromkeys(each.kind for each in found):
        sizes = [each.size for each in found if each.kind == kind]
        lines.append(f"{format_bytes(sum(sizes)):>9}  {kind} ({pluralize(len(sizes), 'file')})")
    total = format_bytes(sum(each.size for each in found))
    return [*lines, f"{total:>9}  in total ({pluralize(len(found), 'file')})"]
