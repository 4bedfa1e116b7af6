"""Makes the record of a job that has just been trained."""

from __future__ import annotations

import platform
import resource
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

import kd_bench
from kd_bench.config.identity import digest
from kd_bench.jobs.job import Job
from kd_bench.results.record import Accuracy, Images, Record, TeacherScore
from kd_bench.training.device import device_name
from kd_bench.training.loop import Progress, Row, accuracy, predictions
from kd_bench.training.setup import TrainingSetup


def make_record(
    job: Job, setup: TrainingSetup, progress: Progress, seconds_of_process: float
) -> Record:
    """The record of a job from what it trained with and how that went."""
    validation = setup.data.validation
    return Record(
        folder=job.folder,
        digest=digest(job.identity),
        identity=job.identity,
        config=job.config,
        changed=job.changed,
        accuracy=_accuracy(progress.history),
        teacher=_teacher_score(job, setup),
        images=Images(
            train=setup.data.train_size,
            test=len(setup.data.test.target),
            validation=0 if validation is None else len(validation.target),
        ),
        parameters=_parameters(setup),
        images_per_second=round(median(row["images_per_second"] for row in progress.timing), 1),
        peak_memory_mb=_peak_memory_mb(setup.device),
        device=setup.device.type,
        device_name=device_name(setup.device),
        threads=torch.get_num_threads(),
        versions={
            "kd_bench": kd_bench.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **code_version(),
        data_fingerprint=setup.data.fingerprint,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(sum(row["train"] + row["evaluation"] for row in progress.timing), 3),
        seconds_of_process=round(seconds_of_process, 3),
        seconds_of_warm_up=round(progress.warm_up, 3),
        speed=setup.execution.speed.value,
        execution=setup.execution.as_record(),
    )


def _accuracy(history: list[Row]) -> Accuracy:
    best = max(history, key=lambda row: row["test_accuracy"])
    by_validation = None
    if "validation_accuracy" in best:
        selected = max(history, key=lambda row: row["validation_accuracy"])
        by_validation = selected["test_accuracy"]
    return Accuracy(
        last=history[-1]["test_accuracy"],
        best=best["test_accuracy"],
        best_epoch=best["epoch"],
        best_val=by_validation,
    )


def _teacher_score(job: Job, setup: TrainingSetup) -> TeacherScore | None:
    if setup.teacher is None:
        return None
    test = setup.data.test
    teacher_out, student_out = (
        predictions(network, setup.data, test) for network in (setup.teacher.network, setup.student)
    )
    return TeacherScore(
        folder=None if job.teacher is None else job.teacher.folder,
        accuracy=accuracy(teacher_out, test.target),
        source=job.config.teacher.source.value,
        agreement=accuracy(teacher_out, student_out),
        **setup.teacher.record_fields,
    )


def _parameters(setup: TrainingSetup) -> dict[str, int]:
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in setup.learners.items()
    }
    student = sizes["student"]
    return {"student": student, "training": sum(sizes.values()), "inference": student}


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 2**10, 1)


@cache
def code_version() -> dict[str, Any]:
    """The commit of the code, and whether the code differs from it; None outside a checkout.

    To be called when the code is loaded, for it may be edited while jobs of a sweep are running.
    """
    root = Path(kd_bench.__file__).resolve().parent.parent
    unknown = {"commit": None, "dirty": False}
    if not (root / ".git").exists():
        return unknown
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--"]
    try:
        done = subprocess.run(
            [*command, "kd_bench", "conf"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return unknown
    lines = done.stdout.splitlines()
    head = next(line for line in lines if line.startswith("# branch.oid "))
    return {"commit": head.split()[-1], "dirty": not all(line.startswith("#") for line in lines)}
