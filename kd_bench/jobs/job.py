"""A job, frozen once `resolve` has made it, and the file that stores the jobs of a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.identity import check_folder, check_names
from kd_bench.config.schema import Config, total_epochs
from kd_bench.results.record import Record
from kd_bench.results.run_folder import (
    RESULT,
    SWEEPS,
    read_record,
    read_sweep_file,
    write_sweep_file,
)
from kd_bench.utils.errors import DamagedError, UserError
from kd_bench.utils.files import ensure_writable_dir


@dataclass(frozen=True)
class MethodTraits:
    """Properties that the classes of a method's losses declare, looked up once."""

    needs_teacher: bool = False
    teacher_learns: bool = False  # it is trained along with the student
    teacher_is_same_model: bool = False
    uncacheable: dict[str, str] = field(default_factory=dict)  # loss -> why it cannot use a cache
    revisions: dict[str, int] = field(default_factory=dict)  # part -> its `revision`


@dataclass(frozen=True)
class Job:
    """One job with everything that is derived from its configuration.

    All of it is computed once and stored here, so a sweep and its workers cannot disagree, even if
    files are edited meanwhile.
    """

    config: Config
    changed: dict[str, Any]  # values that differ from those of the selected config groups
    identity: dict[str, Any]
    folder: str  # relative to runs_dir
    label: str
    traits: MethodTraits
    teachers: tuple[Job, ...] = ()  # the jobs that train its teacher, or each one of an ensemble
    is_requested: bool = True  # False for a teacher added as a dependency

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.config.runs_dir) / self.folder

    @property
    def teacher(self) -> Job | None:
        """The job that trains its teacher, or the first teacher of several."""
        return next(iter(self.teachers), None)

    def ancestors(self) -> Iterator[Job]:
        """All jobs that this one depends on, teachers before their students."""
        for teacher in self.teachers:
            yield from teacher.ancestors()
            yield teacher

    def read_record(self) -> Record | None:
        """The job's record; None if it is not finished.

        Raises:
            DamagedError: its result.json is damaged or belongs to another job.
            UserError: its result.json cannot be read or is from another version of kd-bench.
        """
        record = read_record(self.path)
        if record is not None and record.folder != self.folder:
            raise DamagedError(f"{self.path / RESULT} is the record of {record.folder}")
        return record

    def find_record(self) -> Record | None:
        """Like `read_record`, but None also if result.json cannot be read."""
        try:
            return self.read_record()
        except UserError:
            return None

    @property
    def is_done(self) -> bool:
        """Whether its record exists and can be read."""
        return self.find_record() is not None

    @property
    def epochs(self) -> int:
        """Epochs in all phases."""
        return total_epochs(self.config)

    @property
    def folder_without_seed(self) -> str:
        """The part of its folder's path that all seeds share."""
        return self.folder.rpartition("/")[0]

    def to_json(self) -> dict[str, Any]:
        """The job as plain values."""
        return to_plain(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """A job from plain values.

        Raises:
            KeyError, TypeError, UserError: another version of kd-bench wrote them, or `folder` is
                outside the runs folder.
        """
        if values.keys() != _FIELDS:
            raise KeyError(f"a job has {', '.join(sorted(_FIELDS))}")
        config = to_dataclass(Config, values["config"])
        check_names(config)
        check_folder(values["folder"])
        return cls(
            **{
                **values,
                "config": config,
                "traits": MethodTraits(**values["traits"]),
                "teachers": tuple(map(cls.from_json, values["teachers"])),
            }
        )


_FIELDS = {each.name for each in fields(Job)}


# The jobs of a sweep: runs/.sweeps/<name>.jsonl, one per line


def write_jobs(jobs: Sequence[Job], name: str) -> Path:
    """Write the jobs to <runs_dir>/.sweeps/<name>.jsonl."""
    folder = Path(jobs[0].config.runs_dir) / SWEEPS
    ensure_writable_dir(folder)
    path = folder / f"{name}.jsonl"
    write_sweep(path, jobs)
    return path


def write_sweep(path: Path, jobs: Sequence[Job]) -> None:
    """Write a sweep's file atomically."""
    write_sweep_file(path, (json.dumps(job.to_json()) for job in jobs))


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a sweep's file; their `runs_dir` is the folder that now contains the file.

    Raises:
        UserError: the file is damaged, or another version of kd-bench wrote it.
    """
    runs_dir = str(path.parent.parent)
    return [_parse(line, path, runs_dir) for line in read_sweep_file(path)]


def read_job(path: Path, number: int) -> Job:
    """Job `number` of a sweep's file, as it was written.

    Raises:
        UserError: the file is damaged, or another version of kd-bench wrote it.
    """
    return _parse(read_sweep_file(path)[number], path)


def _parse(line: str, path: Path, runs_dir: str | None = None) -> Job:
    try:
        values = json.loads(line)
        if runs_dir is not None:
            values["config"]["runs_dir"] = runs_dir
        return Job.from_json(values)
    except (KeyError, TypeError, UserError):
        raise UserError(
            f"{path} was written by another version of kd-bench; delete it: the jobs stay"
        ) from None


def sweep_files(runs: Path) -> dict[str, Path]:
    """The files of all sweeps in a runs folder by name, the most recently started last."""
    found = (runs / SWEEPS).glob("*.jsonl")
    return {path.stem: path for path in sorted(found, key=lambda path: path.lstat().st_mtime)}
