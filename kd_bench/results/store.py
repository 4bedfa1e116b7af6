"""Reads the results of jobs on disk: records of finished jobs, error messages of failed ones."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_dataclass
from kd_bench.config.schema import Config
from kd_bench.results.record import Failure, Record
from kd_bench.results.run_folder import (
    ERROR,
    RESULT,
    SWEEPS,
    find_record,
    read_error,
    read_record,
    read_sweep_file,
)
from kd_bench.results.study import find_study
from kd_bench.utils.errors import UserError, require, warn


def _job_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """All folders below `root`, sorted by name, with their file names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), files


def find_jobs(root: str | Path) -> Iterator[Path]:
    """The folders of all jobs below `root`, finished or not."""
    return (folder for folder, _ in _job_folders(Path(root)) if _is_job(folder))


def folder_size(folder: Path) -> int:
    """Total size in bytes of all files in a folder and its subfolders."""
    paths = (Path(at) / name for at, _, files in os.walk(folder) for name in files)
    return sum(path.lstat().st_size for path in paths)


def find_records(root: str | Path) -> Iterator[tuple[Path, Record]]:
    """The folder and record of each finished job below `root`; the record includes its study.

    Skips files that cannot be read, with a warning.

    Raises:
        UserError: `root` is not a folder.
    """
    root = Path(root)
    require(root.is_dir(), f"there is no folder {root} to read records from")
    for folder, _ in _job_folders(root):
        if record := find_record(folder):
            yield folder, replace(record, study=find_study(folder))


def find_placed_records(root: str | Path) -> Iterator[tuple[Path, Record]]:
    """Like `find_records`, but also skips a record that is in the folder of another job."""
    for folder, record in find_records(root):
        if _is_in_place(record, folder):
            yield folder, record
        else:
            warn(f"left out: {folder / RESULT} is the record of {record.folder}")


def read_records(root: str | Path) -> list[Record]:
    """The records of `find_placed_records`, sorted by folder."""
    return [record for _, record in find_placed_records(root)]


def _is_in_place(record: Record, folder: Path) -> bool:
    """Whether a record is in its own job's folder, or in a folder that is not a job's."""
    return not _is_job(folder) or record.folder.endswith(_digest_and_seed(folder))


def _is_job(folder: Path) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}/seed\d+", _digest_and_seed(folder)) is not None


def _digest_and_seed(folder: Path) -> str:
    return "/".join(os.path.abspath(folder).split(os.sep)[-2:])


def open_record(path: str | Path) -> tuple[Path, Record]:
    """A finished job's folder and record, given that folder or a file in it.

    Raises:
        UserError: there is no record, it has another format, or belongs to another job.
    """
    example = "the folder of a finished job: runs/<dataset>/<pair>/<method>/<digest>/seed<k>"
    require(Path(path).exists(), f"there is no {path}; give {example}")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if (record := read_record(folder)) is None:
        raise UserError(f"there is no {RESULT} in {folder}; give {example}")
    require(
        _is_in_place(record, folder),
        f"{folder / RESULT} is the record of another job, {record.folder}; delete it to run the job"
        " again",
    )
    return folder, record


def read_failures(root: str | Path) -> list[Failure]:
    """The jobs below `root` that failed and have not finished since, sorted by folder."""
    failed = [
        folder.absolute()
        for folder, files in _job_folders(Path(root))
        if ERROR in files and RESULT not in files and _is_job(folder)
    ]
    jobs: dict[str, dict[str, Any]] = {}
    for runs in sorted({folder.parents[4] for folder in failed}):
        jobs |= _sweep_jobs(runs)
    return [_failure(folder, jobs.get("/".join(folder.parts[-5:]))) for folder in failed]


def _failure(folder: Path, job: dict[str, Any] | None) -> Failure:
    name, reason, study = "/".join(folder.parts[-5:]), read_error(folder) or "", find_study(folder)
    if job is None:
        return Failure(name, reason)
    try:
        config = to_dataclass(Config, job["config"])
    except UserError:  # another version of kd-bench started the sweep
        return Failure(name, reason)
    return Failure(name, reason, job["identity"], config, job["changed"], study)


def _sweep_jobs(runs: Path) -> dict[str, dict[str, Any]]:
    """The jobs of all sweeps in a runs folder, as plain values, by folder."""
    jobs: dict[str, dict[str, Any]] = {}
    for path in sorted((runs / SWEEPS).glob("*.jsonl")):
        try:
            found = [json.loads(line) for line in read_sweep_file(path)]
            jobs |= {job["folder"]: job for job in found}
        except UserError as error:
            warn(f"left out: {error}")
    return jobs
