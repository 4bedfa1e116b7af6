"""Creates the record of a job that has just been trained, and adds values to existing records."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import kd_bench
from kd_bench.config.convert import to_plain
from kd_bench.config.identity import digest
from kd_bench.jobs.evaluation.scoring import StudentLogits, measure
from kd_bench.jobs.instantiate import describe_dataset, meta_network
from kd_bench.jobs.job import Job
from kd_bench.models.ensemble import Ensemble
from kd_bench.results.record import (
    CHECKSUM,
    Accuracy,
    Images,
    Record,
    TeacherScore,
    with_checksum,
)
from kd_bench.results.run_folder import RESULT, TEST_LOGITS
from kd_bench.training.device import device_name
from kd_bench.training.loop import Progress, Row, accuracy
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.locked_folder import LockedFolder


def make_record(
    job: Job,
    setup: TrainingSetup,
    progress: Progress,
    *,
    student_logits: StudentLogits,
    teacher_logits: Tensor | None,
    weights: bytes,
    stored_logits: bytes,
    seconds_of_process: float,
) -> Record:
    """The record of a trained job.

    Args:
        job: the job.
        setup: its training setup.
        progress: history and timing of its training.
        student_logits: logits of the trained student.
        teacher_logits: logits of its teacher on the test images; None without a teacher.
        weights: the content of weights.pt.
        stored_logits: the content of test_logits.pt.
        seconds_of_process: duration including setup.
    """
    validation = setup.data.validation
    return Record(
        folder=job.folder,
        digest=digest(job.identity),
        identity=job.identity,
        config=job.config,
        changed=job.changed,
        accuracy=_accuracy(progress.history),
        teacher=_teacher_score(job, setup, teacher_logits, student_logits.test),
        images=Images(
            train=setup.data.train_size,
            test=len(setup.data.test.target),
            validation=0 if validation is None else len(validation.target),
        ),
        parameters=_parameters(job, setup),
        images_per_second=round(median(row["images_per_second"] for row in progress.timing), 1),
        peak_memory_mb=_peak_memory_mb(setup.device),
        device=setup.device.type,
        device_name=device_name(setup.device),
        threads=torch.get_num_threads(),
        versions=versions() | setup.data.versions,
        **code_version(),
        data_fingerprint=setup.data.fingerprint,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(sum(row["train"] + row["evaluation"] for row in progress.timing), 3),
        seconds_of_process=round(seconds_of_process, 3),
        seconds_of_warm_up=round(progress.warm_up, 3),
        speed=setup.execution.speed.value,
        execution=setup.execution.as_record(),
        weights_sha256=_hash(weights),
        views_per_step=setup.method.views_per_step(_some_images(setup)),
        teacher_images=_teacher_images(setup),
        metrics=measure(student_logits, teacher_logits, setup.data),
        test_logits_sha256=_hash(stored_logits),
    )


def _some_images(setup: TrainingSetup) -> Tensor:
    return setup.data.eval_batch(setup.data.test, 0, 2)


def add_to_record(
    folder: Path, values: Mapping[str, Any], stored_logits: bytes | None = None
) -> Record:
    """Add values, and optionally test_logits.pt, to a finished job's folder; change nothing else.

    Args:
        folder: the job's folder.
        values: fields of its record with their values, plain or dataclasses.
        stored_logits: the content of test_logits.pt; its hash is added to the record.

    Returns:
        The updated record.

    Raises:
        Locked: another process works in the folder.
        DamagedError: the record was damaged meanwhile.
    """
    with LockedFolder(folder) as locked:
        plain = json.loads((folder / RESULT).read_bytes())
        Record.from_json(plain, folder / RESULT)
        plain.pop(CHECKSUM, None)
        plain |= to_plain(dict(values))
        if stored_logits is not None:
            plain["test_logits_sha256"] = _hash(stored_logits)
            locked.write(TEST_LOGITS, stored_logits)
        locked.write_json(RESULT, with_checksum(plain))
    return Record.from_json(plain, folder / RESULT)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the software that a job's results depend on."""
    return {
        "kd_bench": kd_bench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


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


def _teacher_score(
    job: Job, setup: TrainingSetup, teacher_logits: Tensor | None, student_logits: Tensor
) -> TeacherScore | None:
    if setup.teacher is None or teacher_logits is None:
        return None
    predicted = teacher_logits.argmax(1)
    return TeacherScore(
        folder=job.teachers[0].folder if len(job.teachers) == 1 else None,
        members=[each.folder for each in job.teachers] if len(job.teachers) > 1 else None,
        accuracy=accuracy(predicted, setup.data.test.target.cpu()),
        source=job.config.teacher.source.value,
        agreement=accuracy(predicted, student_logits.argmax(1)),
        **setup.teacher.record_fields,
    )


def _teacher_images(setup: TrainingSetup) -> int:
    """Images passed through the teacher's networks in training, or to fill its cache.

    Images that a loss itself passes through the teacher are not counted.
    """
    if setup.teacher is None:
        return 0
    if table := setup.teacher.record_fields.get("table"):
        images = table["images"] * table["views"]
    else:
        images = sum(_images_of_epoch(setup, phase.name) * phase.epochs for phase in phases(setup))
    images += setup.method.preparations * setup.data.train_size
    net = setup.teacher.network.net
    return images * (len(net.nets) if isinstance(net, Ensemble) else 1)


def _images_of_epoch(setup: TrainingSetup, phase: str) -> int:
    """Number of images in an epoch, including all extra views."""
    image = _some_images(setup)
    views = setup.method.extra_views(image, phase).values()
    return sum(setup.step_sizes) * (1 + sum(map(len, views)) // len(image))


def _parameters(job: Job, setup: TrainingSetup) -> dict[str, int]:
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in setup.learners.items()
    }
    return {
        "student": _model_size(job) if job.config.method.head else sizes["student"],
        "training": sum(sizes.values()),
        "inference": sizes["student"],
    }


def _model_size(job: Job) -> int:
    """Number of parameters of the student's model with its own classifier."""
    model, _ = meta_network(job.config.model, describe_dataset(job.config.dataset))
    return sum(parameter.numel() for parameter in model.net.parameters())


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 2**10, 1)


@cache
def code_version() -> dict[str, Any]:
    """The commit of the code, and whether the code differs from it; None outside a checkout.

    Call this when the code is loaded, because it may be edited while jobs of a sweep are running.
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
