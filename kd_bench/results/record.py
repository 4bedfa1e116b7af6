"""The record of a finished job: what it was, what it scored, and all that the numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.schema import Config
from kd_bench.utils.errors import UserError, require

FORMAT = 1  # of the JSON; raised when its meaning changes, not for a new field with a default


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent of all test images, by which epoch counts."""

    last: float
    best: float  # over the epochs, so selected on the test images
    best_epoch: int
    best_val: float | None  # of the epoch that is best on validation images, where there are some


@dataclass(frozen=True)
class TeacherScore:
    """How the teacher of a finished job did on the test images."""

    folder: str | None  # of its own job; None: it came from a file, or was trained along
    accuracy: float  # percent
    source: str
    agreement: float  # percent of the images that student and teacher classify alike
    table: dict[str, Any] | None = None  # size and cost of the cache of its outputs


@dataclass(frozen=True)
class Images:
    """How many images a job saw."""

    train: int
    test: int
    validation: int = 0


@dataclass(frozen=True)
class Record:
    """One finished job. `to_json` and `from_json` are the only places that know its file."""

    folder: str  # <dataset>/<teacher>-<student>/<method>/<digest>/seed<k>
    digest: str
    identity: dict[str, Any]
    config: Config
    changed: dict[str, Any]  # values that differ from what the choices alone compose
    accuracy: Accuracy
    teacher: TeacherScore | None
    images: Images
    parameters: dict[str, int]  # "student", "training", "inference"
    images_per_second: float  # median over the epochs
    peak_memory_mb: float
    device: str  # "cpu" or "cuda"
    device_name: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    dirty: bool  # the code differed from the commit
    data_fingerprint: str
    finished: str  # ISO 8601
    seconds: float  # of training and evaluation
    seconds_of_process: float | None = None  # with start and end, without Python's own start
    seconds_of_warm_up: float = 0.0  # by which first epochs outlasted the others: compiling
    speed: str = "repro"
    execution: dict[str, Any] = field(default_factory=dict)  # how steps were executed
    status: str = "done"
    format: int = FORMAT

    @property
    def seed(self) -> int:
        """The job's seed."""
        return self.config.seed

    def to_json(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        plain = to_plain(self)
        if self.teacher is not None and self.teacher.table is None:
            del plain["teacher"]["table"]
        return plain

    @classmethod
    def from_json(cls, values: Any, path: Path | str = "the record") -> Record:
        """A record from plain values; what older versions did not write gets its default.

        Raises:
            UserError: for another format, or values that are no record; it names `path`.
        """
        version = values.get("format") if isinstance(values, dict) else None
        require(
            version == FORMAT,
            f"{path} is a record of format {version}; this version of kd-bench reads {FORMAT}",
        )
        known = {name: value for name, value in values.items() if name in _FIELDS}
        try:
            known["config"] = to_dataclass(Config, _without_retired(values["config"]))
            known["accuracy"] = Accuracy(**values["accuracy"])
            known["images"] = Images(**values["images"])
            if values["teacher"] is not None:
                known["teacher"] = TeacherScore(**values["teacher"])
            return cls(**known)
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{path} is no record: {type(error).__name__}: {error}") from None


_FIELDS = {each.name for each in fields(Record)}


@dataclass(frozen=True)
class Failure:
    """A job that ended with an error and was not finished since."""

    folder: str  # as a record has it
    reason: str  # in one line
    # Known where the job was part of a sweep:
    identity: dict[str, Any] | None = None
    config: Config | None = None
    changed: dict[str, Any] | None = None


def _without_retired(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a record of 0.1, which also had speed=fast and what that chose."""
    kept = {name: value for name, value in config.items() if name != "chosen"}
    return kept | {"speed": "repro"} if kept.get("speed") == "fast" else kept
