"""The record of a finished job: configuration, scores, and everything that affects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.identity import check_folder, check_names
from kd_bench.config.schema import Config
from kd_bench.results.analysis.budget import Budget, budget_of
from kd_bench.results.study import Study
from kd_bench.utils.errors import DamagedError, UserError, require
from kd_bench.utils.files import json_hash

FORMAT = 1  # of the JSON; incremented when its meaning changes, not for new fields with defaults
CHECKSUM = "checksum"  # of all other values; missing in records of version 0.1


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent of all test images, at different epochs."""

    last: float
    best: float  # over all epochs, so selected on the test images
    best_epoch: int
    best_val: float | None  # at the epoch with the best validation accuracy, if there is one


@dataclass(frozen=True)
class TeacherScore:
    """The accuracy of a finished job's teacher on the test images."""

    folder: str | None  # of its own job; None: from a file, or trained together with the student
    accuracy: float  # percent
    source: str  # "online" or "table"
    agreement: float  # percent of the images for which student and teacher predict the same class
    table: dict[str, Any] | None = None  # size and cost of the cache of its outputs
    members: list[str] | None = None  # for an ensemble: the folders of the teachers' jobs

    @property
    def folders(self) -> list[str]:
        """The folders of the teachers' jobs."""
        return self.members or ([] if self.folder is None else [self.folder])


@dataclass(frozen=True)
class Metrics:
    """Metrics other than accuracy, from the student's logits for all test images at the last epoch.

    Computed by `jobs.evaluation.scoring`.
    """

    top5: float | None  # percent; None with five classes or fewer
    nll: float  # negative log-likelihood in nats
    ece: float  # expected calibration error in percent, 15 bins
    temperature: float | None  # fitted on the validation images, if there are any
    ece_scaled: float | None  # of logits divided by that temperature
    kl: float | None  # KL(teacher || student) in nats; None without the teacher's logits
    teacher_errors: float | None  # agreement in percent where the teacher errs; None like kl
    per_class: list[float | None]  # accuracy in percent; None for a class without test images


@dataclass(frozen=True)
class Corrupted:
    """Accuracy in percent of all test images with a corruption, at strengths 1 to 5 each.

    Measured by `jobs.evaluation.robustness`.
    """

    revision: int  # of the corruptions
    accuracy: dict[str, list[float]]  # by the name of a corruption
    extra: dict[str, list[float]]  # of corruptions that are not part of the mean

    @property
    def mean(self) -> float:
        """Mean over the corruptions and their strengths."""
        return fmean(fmean(each) for each in self.accuracy.values())

    def mean_of(self, name: str) -> float | None:
        """Mean over the strengths of one corruption; None if it was not measured."""
        found = (self.accuracy | self.extra).get(name)
        return None if found is None else fmean(found)


@dataclass(frozen=True)
class Probe:
    """A linear classifier of a student's features on another dataset.

    Trained by `jobs.evaluation.probe`.
    """

    accuracy: float  # percent of all test images of that dataset
    dataset: dict[str, Any]  # as in the identity of a job
    data_fingerprint: str
    revision: int  # of its training


@dataclass(frozen=True)
class Images:
    """Numbers of images."""

    train: int
    test: int
    validation: int = 0


@dataclass(frozen=True)
class Record:
    """One finished job. Only `to_json` and `from_json` depend on the format of its file."""

    folder: str  # <dataset>/<teacher>-<student>/<method>/<digest>/seed<k>
    digest: str
    identity: dict[str, Any]
    config: Config
    changed: dict[str, Any]  # values that differ from those of the chosen YAML files, by path
    accuracy: Accuracy
    teacher: TeacherScore | None
    images: Images
    parameters: dict[str, int]  # "student" (its model), "training", "inference" (with a head)
    images_per_second: float  # median over the epochs
    peak_memory_mb: float
    device: str  # "cpu" or "cuda"
    device_name: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    dirty: bool  # whether there were uncommitted changes
    data_fingerprint: str
    finished: str  # ISO 8601
    seconds: float  # of training and evaluation
    seconds_of_process: float | None = None  # including set-up and saving, not Python's start
    seconds_of_warm_up: float = 0.0  # extra time of the first epochs, such as compilation
    speed: str = "repro"
    execution: dict[str, Any] = field(default_factory=dict)  # how steps were executed
    weights_sha256: str | None = None  # of weights.pt; missing in older records
    views_per_step: float | None = None  # as in `Budget`; missing in older records
    teacher_images: int | None = None  # passed through it in training; missing in older records
    metrics: Metrics | None = None  # missing in older records until they are evaluated
    test_logits_sha256: str | None = None  # of test_logits.pt; None like `metrics`
    corrupted: Corrupted | None = None  # None until measured
    probes: dict[str, Probe] = field(default_factory=dict)  # by the dataset's name
    status: str = "done"
    format: int = FORMAT
    study: Study | None = None  # that chose its values; stored in a separate file

    @property
    def budget(self) -> Budget:
        """How much more the student was trained than the recipe specifies."""
        return budget_of(self.config.method, self.views_per_step)

    @property
    def seed(self) -> int:
        """The job's seed."""
        return self.config.seed

    def to_json(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        plain = to_plain(replace(self, study=None))
        del plain["study"]
        for name in ("corrupted", "probes"):
            if not plain[name]:
                del plain[name]
        if self.teacher is not None:
            for name in ("table", "members"):
                if plain["teacher"][name] is None:
                    del plain["teacher"][name]
        return with_checksum(plain)

    @classmethod
    def from_json(cls, values: Any, path: Path | str = "the record") -> Record:
        """A record from plain values; fields that older versions did not write get defaults.

        Raises:
            DamagedError: the values are not a record, or do not match its checksum; the message
                names `path`.
            UserError: another version of kd-bench wrote it, in another format.
        """
        if not isinstance(values, dict):
            raise DamagedError(f"{path} is not a valid record: it has no fields")
        rest = {name: value for name, value in values.items() if name != CHECKSUM}
        if CHECKSUM in values and values[CHECKSUM] != json_hash(rest, 16):
            raise DamagedError(f"{path} is damaged: its content does not match its checksum")
        version = values.get("format")
        if version != FORMAT:
            kind = UserError if isinstance(version, int) else DamagedError
            raise kind(
                f"{path} is a record of format {version}, but this version of kd-bench reads"
                f" {FORMAT}; use the version that wrote it, or delete it to run the job again"
            )
        known = {name: value for name, value in values.items() if name in _FIELDS}
        try:
            known["config"] = to_dataclass(Config, _without_retired(values["config"]))
            known["accuracy"] = Accuracy(**values["accuracy"])
            known["images"] = Images(**values["images"])
            if values["teacher"] is not None:
                known["teacher"] = TeacherScore(**values["teacher"])
            if values.get("metrics") is not None:
                known["metrics"] = Metrics(**values["metrics"])
            if "corrupted" in values:
                known["corrupted"] = Corrupted(**values["corrupted"])
            probes = values.get("probes", {})
            known["probes"] = {name: Probe(**probe) for name, probe in probes.items()}
            record = cls(**known)
            record._check_paths()
            record._check_budget()
            return record
        except (AttributeError, KeyError, TypeError, UserError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DamagedError(f"{path} is not a valid record: {reason}") from None

    def _check_paths(self) -> None:
        """Refuse names of folders that would escape their parent folder."""
        check_names(self.config)
        check_folder(self.folder)
        require(
            str(self.digest).isalnum(), f"digest must be letters and digits, got '{self.digest}'"
        )
        for folder in [] if self.teacher is None else self.teacher.folders:
            check_folder(folder)

    def _check_budget(self) -> None:
        """Refuse views per step that a table cannot sort by."""
        views = self.budget.views_per_step
        is_number = isinstance(views, int | float) and views > 0
        require(is_number, f"views_per_step must be above 0, got {views!r}")


_FIELDS = {field.name for field in fields(Record)} - {"study"}


def with_checksum(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a record with their checksum, which replaces an older one."""
    rest = {name: value for name, value in plain.items() if name != CHECKSUM}
    return {**rest, CHECKSUM: json_hash(rest, 16)}


@dataclass(frozen=True)
class Failure:
    """A job that failed and has not been finished since."""

    folder: str  # as in a record
    reason: str  # one line
    # Only known if the job was part of a sweep:
    identity: dict[str, Any] | None = None
    config: Config | None = None
    changed: dict[str, Any] | None = None
    study: Study | None = None  # as in a record


def _without_retired(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without options of version 0.1: speed=fast and what it selected."""
    kept = {name: value for name, value in config.items() if name != "chosen"}
    return kept | {"speed": "repro"} if kept.get("speed") == "fast" else kept
