"""Records of jobs that never ran, for tests of tables and publishing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.identity import digest, flatten, folder_name, job_identity, short_name
from kd_bench.config.schema import Config
from kd_bench.results.record import Accuracy, Failure, Images, Record, TeacherScore
from kd_bench.results.run_folder import HISTORY, RESULT

LOSSES = {
    "st": {"temperature": 4},
    "at": {"power": 2},
    "dkd": {"beta": 8, "alpha": 1},
    "dml": {"temperature": 1},
    "simkd": {},
    "control_shuffled": {"temperature": 4},
}
ROLES = {"control_shuffled": "control", "label_smoothing": "control", "simkd": "label_free"}
TEACHER_LEARNS = {"dml"}


def record(
    method: str = "baseline",
    seed: int = 0,
    accuracy: float = 90.0,
    *,
    dataset: str = "digits",
    student: str = "resnet8",
    teacher: str = "resnet20",
    recipe: str = "quickstart",
    speed: str = "repro",
    changed: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
    best: float | None = None,
    best_val: float | None = None,
    teacher_accuracy: float = 96.1,
    test_images: int = 1297,
    **fields: Any,
) -> Record:
    """The record of a finished job; methods in `LOSSES` have a teacher.

    Args:
        changed: configuration values by path; the record also lists them as changed.
        plugins: names of the method's plug-ins.
        fields: fields of the record to replace.
    """
    names = dataset, student, teacher, recipe
    config = _config(method, plugins, seed, *names, speed, changed or {})
    identity = job_identity(
        config,
        needs_teacher=method in LOSSES,
        teacher_learns=method in TEACHER_LEARNS,
        revisions={},
    )
    written = Record(
        folder=folder_name(identity, seed),
        digest=digest(identity),
        identity=identity,
        config=config,
        changed=flatten(changed or {}),
        accuracy=Accuracy(accuracy, accuracy if best is None else best, 17, best_val),
        teacher=None,
        images=Images(train=500, test=test_images),
        parameters={"student": 1000, "training": 1000, "inference": 1000},
        images_per_second=500.0,
        peak_memory_mb=300.0,
        device="cpu",
        device_name="a processor",
        threads=1,
        versions={"kd_bench": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        commit="abc123",
        dirty=False,
        data_fingerprint=f"images of {dataset}",
        finished="2026-01-01T00:00:00+00:00",
        seconds=60.0,
        speed=speed,
    )
    if method in LOSSES:
        folder = None if method in TEACHER_LEARNS else teacher_record(written).folder
        score = TeacherScore(folder, teacher_accuracy, source="online", agreement=95.0)
        written = replace(written, teacher=score)
    return replace(written, **fields)


def _config(
    method: str,
    plugins: Sequence[str],
    seed: int,
    dataset: str,
    student: str,
    teacher: str,
    recipe: str,
    speed: str,
    changed: Mapping[str, Any],
) -> Config:
    losses = {method: dict(LOSSES[method])} if method in LOSSES else {}
    values = {
        "dataset": {"name": dataset, "pad": 1, "source": {"root": "data"}},
        "model": {"name": student, "net": {"width": 8}},
        "method": {
            "name": method,
            "losses": losses,
            "weights": {"ce": 1, **dict.fromkeys(losses, 1)},
            "plugins": {name: {"noise": 0.1} for name in plugins},
            "role": ROLES.get(method, "method"),
        },
        "recipe": _recipe(recipe, epochs=20),
        "teacher": {
            "model": {"name": teacher, "net": {"width": 16}},
            "recipe": _recipe(recipe, epochs=60),
        },
        "seed": seed,
        "speed": speed,
    }
    plain = to_plain(to_dataclass(Config, values))
    for path, value in changed.items():
        *sections, name = path.split(".")
        section = plain
        for part in sections:
            section = section[part]
        section[name] = value
    return to_dataclass(Config, plain)


def _recipe(name: str, epochs: int) -> dict[str, Any]:
    return {"name": name, "epochs": epochs, "batch_size": 16, "lr": 0.05}


def teacher_record(student: Record, accuracy: float = 96.1) -> Record:
    """The record of the job that trained the teacher of `student`."""
    teacher = student.config.teacher
    changed = {"recipe.epochs": teacher.recipe.epochs, "model.net.width": 16}
    made = record(
        accuracy=accuracy,
        seed=teacher.seed,
        student=teacher.model.name,
        dataset=student.config.dataset.name,
        recipe=teacher.recipe.name,
        changed=changed,
    )
    return replace(made, changed={})


def taught_by(*teachers: Record, method: str = "st", accuracy: float = 90.0) -> Record:
    """The record of a student taught by these: a link of a chain, or an ensemble's student."""
    student = record(method, accuracy=accuracy)
    assert student.teacher is not None
    names = [short_name(teacher.identity, teacher.seed) for teacher in teachers]
    folders = [teacher.folder for teacher in teachers]
    alone = folders[0] if len(folders) == 1 else None
    score = replace(student.teacher, folder=alone, accuracy=50.0, members=folders)
    identity = student.identity | {"taught_by": names}
    return replace(
        student,
        identity=identity,
        digest=digest(identity),
        folder=folder_name(identity, student.seed),
        teacher=score if alone is None else replace(score, members=None),
    )


def seeds(method: str, *accuracies: float, **settings: Any) -> list[Record]:
    """Records of a job with seeds 0, 1, ..."""
    return [record(method, seed, value, **settings) for seed, value in enumerate(accuracies)]


def failure(of: Record, seed: int, *, is_known: bool = False) -> Failure:
    """A failed job with another seed than `of`; `is_known` for jobs listed by a sweep."""
    folder = f"{of.folder.rpartition('/')[0]}/seed{seed}"
    reason = "FloatingPointError: loss is nan"
    if not is_known:
        return Failure(folder, reason)
    return Failure(folder, reason, of.identity, replace(of.config, seed=seed), of.changed)


def write(root: Path, records: Sequence[Record]) -> None:
    """Write records below a folder, as jobs would."""
    for written in records:
        folder = root / written.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(json.dumps(written.to_json()))
        (folder / HISTORY).write_text("epoch,lr,ce,train_accuracy,test_accuracy\n")
