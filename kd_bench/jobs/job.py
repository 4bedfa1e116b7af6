"""Jobs as a sweep writes them down before it runs them: runs/.sweeps/<name>.jsonl, a line each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kd_bench.config.schema import init_epochs
from kd_bench.utils.errors import require
from kd_bench.utils.files import atomic_write, ensure_writable_dir

FOLDER = ".sweeps"  # below the runs folder


@dataclass
class Job:
    """One frozen job: all that it needs, so that editing conf/ changes nothing any more."""

    config: dict[str, Any]
    changed: dict[str, Any]
    identity: dict[str, Any]
    folder: str  # below runs_dir
    label: str
    after: str | None  # the folder of its teacher
    asked: bool  # False for a teacher that is there for others' sake

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.config["runs_dir"]) / self.folder

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        return (self.path / "result.json").exists()

    @property
    def epochs(self) -> int:
        """Epochs that it trains in all."""
        return total_epochs(self.config)


def total_epochs(config: Mapping[str, Any]) -> int:
    """Epochs of a job, those of the training before the training among them."""
    epochs = config["recipe"]["epochs"]
    return init_epochs(config["method"]["init"]["epochs"], epochs) + epochs


def write_jobs(jobs: Sequence[Job], name: str) -> Path:
    """Write the jobs to <runs_dir>/.sweeps/<name>.jsonl."""
    folder = Path(jobs[0].config["runs_dir"]) / FOLDER
    ensure_writable_dir(folder)
    path = folder / f"{name}.jsonl"
    atomic_write(path, "".join(json.dumps(asdict(job)) + "\n" for job in jobs))
    return path


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a sweep's file, those of a runs folder that was moved since in its new place.

    Raises:
        UserError: another version of kd-bench wrote the file.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = {field.name for field in fields(Job)}
    require(
        all(line.keys() == names for line in lines),
        f"{path} was written by another version of kd-bench; delete it, or start its sweep again",
    )
    jobs = [Job(**line) for line in lines]
    for job in jobs:
        job.config["runs_dir"] = str(path.parent.parent)
    return jobs


def sweep_files(runs: Path) -> dict[str, Path]:
    """The files of all sweeps of a runs folder by name, those that were started last at the end."""
    found = (runs / FOLDER).glob("*.jsonl")
    return {path.stem: path for path in sorted(found, key=lambda path: path.stat().st_mtime)}
