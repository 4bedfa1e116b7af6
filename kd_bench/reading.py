"""Reads what jobs left on disk: the records of the finished and the reasons of the failed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kd_bench.errors import UserError, require

FORMAT = 1  # of a record, the version that is read here
JOB = ("identity", "config", "changed")


def _job_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `root` in the order of its name, with its files' names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), files


def _parse(path: Path) -> dict:
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no record: {error}") from None
    version = record.get("format") if isinstance(record, dict) else None
    require(
        version == FORMAT,
        f"{path} is a record of format {version}; this version of kd-bench reads format {FORMAT}",
    )
    return record


def find_records(root: str | Path) -> Iterator[tuple[Path, dict]]:
    """Each finished job below `root`: the folder it lies in, and its record.

    Raises:
        UserError: `root` is no folder, or a result.json in it is no record.
    """
    root = Path(root)
    require(root.is_dir(), f"no folder {root} to read records from")
    for folder, files in _job_folders(root):
        if "result.json" in files:
            yield folder, _parse(folder / "result.json")


def read_records(root: str | Path) -> list[dict]:
    """The records of all finished jobs below `root`, by name of their folders."""
    return [record for _, record in find_records(root)]


def _is_job(folder: Path) -> bool:
    return re.fullmatch(r"seed\d+", folder.name) is not None


def read_failures(root: str | Path) -> list[dict]:
    """The jobs below `root` that ended with an error and were not finished since.

    Returns:
        for each, by name of the folder, {"folder": as a record names it, "reason": one line} and,
        where the job was part of a sweep, its "identity", "config" and "changed".
    """
    failed = [
        folder.absolute()
        for folder, files in _job_folders(Path(root))
        if "error.txt" in files and "result.json" not in files and _is_job(folder)
    ]
    jobs = {}
    for runs in sorted({folder.parents[4] for folder in failed}):
        jobs |= _frozen_jobs(runs)
    names = ["/".join(folder.parts[-5:]) for folder in failed]
    return [
        {"folder": name, "reason": _reason(folder / "error.txt"), **jobs.get(name, {})}
        for name, folder in zip(names, failed, strict=True)
    ]


def _reason(path: Path) -> str:
    return path.read_text(errors="replace").partition("\n")[0].strip()


def _frozen_jobs(runs: Path) -> dict[str, dict]:
    """By folder, what tells every job apart that a sweep wrote down before it ran."""
    lines = [
        json.loads(line)
        for path in sorted((runs / ".sweeps").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return {job["folder"]: {key: job[key] for key in JOB if key in job} for job in lines}
