"""Records written by hand, for the tests of the table and of publishing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from kd_bench.config.identity import digest, flatten, folder_name, job_identity

LOSSES = {
    "st": {"temperature": 4},
    "at": {"power": 2},
    "dkd": {"beta": 8, "alpha": 1},
    "dml": {"temperature": 1},
}
LEARNS = {"dml"}  # the teacher learns along


def _changed(config: dict, changed: dict) -> dict:
    """The config with values replaced, each named by its path."""
    config = copy.deepcopy(config)
    for path, value in changed.items():
        *above, last = path.split(".")
        section = config
        for name in above:
            section = section[name]
        section[last] = value
    return config


def _config(
    method: str, seed: int, dataset: str, student: str, teacher: str, recipe: str, speed: str
) -> dict:
    losses = {method: LOSSES[method]} if method in LOSSES else {}
    return {
        "dataset": {"name": dataset, "pad": 1, "source": {"root": "data"}},
        "model": {"name": student, "net": {"width": 8}},
        "method": {
            "name": method,
            "losses": losses,
            "weights": {"ce": 1, **dict.fromkeys(losses, 1)},
        },
        "recipe": {"name": recipe, "epochs": 20, "lr": 0.05},
        "teacher": {
            "model": {"name": teacher, "net": {"width": 16}},
            "recipe": {"name": recipe, "epochs": 60, "lr": 0.05},
            "seed": 0,
        },
        "seed": seed,
        "speed": speed,
    }


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
    changed: dict | None = None,
    best: float | None = None,
    best_val: float | None = None,
    teacher_accuracy: float = 96.1,
    test_images: int = 1297,
    **other,
) -> dict:
    """A finished job's record; a method with losses has a teacher. `other` replaces its entries."""
    config = _config(method, seed, dataset, student, teacher, recipe, speed)
    config = _changed(config, changed or {})
    job = job_identity(
        config,
        needs_teacher=method in LOSSES,
        teacher_learns=method in LEARNS,
        revisions={},
    )
    written = {
        "format": 1,
        "status": "done",
        "folder": folder_name(job, seed),
        "digest": digest(job),
        "identity": job,
        "config": config,
        "changed": flatten(changed or {}),
        "accuracy": {
            "last": accuracy,
            "best": accuracy if best is None else best,
            "best_epoch": 17,
            "best_val": best_val,
        },
        "teacher": None,
        "images": {"train": 500, "test": test_images, "validation": 0},
        "seconds": 60.0,
        "images_per_second": 500.0,
        "device": "cpu",
        "device_name": "a processor",
        "speed": speed,
        "versions": {"kd_bench": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "commit": "abc123",
        "dirty": False,
        "data_fingerprint": f"images of {dataset}",
    }
    if method in LOSSES:
        written["teacher"] = {
            "folder": None if method in LEARNS else teacher_record(written)["folder"],
            "accuracy": teacher_accuracy,
            "source": "online",
            "agreement": 95.0,
        }
    return written | other


def teacher_record(student: dict, accuracy: float = 96.1) -> dict:
    """The record of the job that made the teacher of `student`."""
    made = student["config"]["teacher"]
    result = record(
        accuracy=accuracy,
        seed=made["seed"],
        student=made["model"]["name"],
        dataset=student["config"]["dataset"]["name"],
        recipe=made["recipe"]["name"],
        changed={"recipe.epochs": made["recipe"]["epochs"], "model.net.width": 16},
    )
    return result | {"changed": {}}


def seeds(method: str, *accuracies: float, **settings) -> list[dict]:
    """Records of one job with the seeds 0, 1, ..."""
    return [record(method, seed, value, **settings) for seed, value in enumerate(accuracies)]


def write(root: Path, records: list[dict]) -> None:
    """Lay records out below a folder as jobs do."""
    for each in records:
        folder = root / each["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(each))
        (folder / "history.csv").write_text("epoch,lr,ce,train_accuracy,test_accuracy\n")
