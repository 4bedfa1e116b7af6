"""Reads what jobs left on disk: the records of the finished and the reasons of the failed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from kd_bench.config.schema import Config
from kd_bench.utils.errors import UserError, require

FORMAT = 1  # of a record, the version that is read here
JOB = ("identity", "config", "changed")


def _job_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `root` in the order of its name, with its files' names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), files


def find_jobs(root: str | Path) -> Iterator[Path]:
    """The folder of each job below `root`, whether it is done or not."""
    return (folder for folder, _ in _job_folders(Path(root)) if _is_job(folder))


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder and below it."""
    paths = (Path(at) / name for at, _, files in os.walk(folder) for name in files)
    return sum(path.lstat().st_size for path in paths)


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


def read_record(path: str | Path) -> tuple[Path, dict]:
    """A finished job's folder and record, from that folder or a file in it.

    Raises:
        UserError: there is no record, or it is of another format.
    """
    example = "the folder of a finished job: runs/<dataset>/<pair>/<method>/<digest>/seed<k>"
    require(Path(path).exists(), f"there is no {path}; give {example}")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    has_record = (folder / "result.json").exists()
    require(has_record, f"there is no result.json in {folder}; give {example}")
    return folder, _parse(folder / "result.json")


def job_config(record: Mapping) -> dict:
    """A record's job in the shape that today's code reads: what it lacks is the default."""
    defaults = asdict(Config(), dict_factory=_plain)
    return _over(defaults, record["config"])


def _plain(items: Iterable[tuple[str, Any]]) -> dict:
    return {name: v.value if isinstance(v, Enum) else v for name, v in items}


def _over(below: Mapping, above: Mapping) -> dict:
    """`below` with the values of `above`, section by section."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = _over(below[name], value) if both else value
    return merged


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
