"""The record of a finished job."""

from __future__ import annotations

import platform
import resource
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import kd_bench
from kd_bench.config.identity import digest, folder_name
from kd_bench.jobs import resolve
from kd_bench.jobs.instantiate import Config
from kd_bench.training.device import device_name
from kd_bench.training.loop import Progress, Row, accuracy, predictions
from kd_bench.training.setup import TrainingSetup


def _record(
    config: Config, changed: Config, job: TrainingSetup, progress: Progress, folder: Path
) -> dict:
    identity = resolve.identity(config)
    device = job.data.train.target.device
    return {
        "format": 1,
        "status": "done",
        "folder": folder_name(identity, config["seed"]),
        "digest": digest(identity),
        "identity": identity,
        "config": dict(config),
        "changed": dict(changed),
        "accuracy": _accuracy(progress.history),
        "teacher": _teacher_record(config, job),
        "images": {
            "train": job.data.train_size,
            "test": len(job.data.test.target),
            "validation": 0 if job.data.validation is None else len(job.data.validation.target),
        },
        "parameters": _parameters(job),
        "images_per_second": _median([row["images_per_second"] for row in progress.timing]),
        "peak_memory_mb": _peak_memory_mb(device),
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "speed": job.execution.speed.value,
        "execution": job.execution.as_record(),
        "versions": {
            "kd_bench": kd_bench.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **CODE,
        "data_fingerprint": job.data.fingerprint,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _accuracy(history: list[Row]) -> dict[str, Any]:
    best = max(history, key=lambda row: row["test_accuracy"])
    by_validation = None
    if "validation_accuracy" in best:
        chosen = max(history, key=lambda row: row["validation_accuracy"])
        by_validation = chosen["test_accuracy"]
    return {
        "last": history[-1]["test_accuracy"],
        "best": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "best_val": by_validation,
    }


def _teacher_record(config: Config, job: TrainingSetup) -> dict | None:
    if job.teacher is None:
        return None
    test = job.data.test
    taught = predictions(job.teacher.network, job.data, test)
    said = predictions(job.student, job.data, test)
    teacher_job = resolve.teacher_job(config)
    return {
        "folder": None if teacher_job is None else resolve.folder_name(teacher_job),
        "accuracy": accuracy(taught, test.target),
        "source": config["teacher"]["source"],
        "agreement": accuracy(taught, said),
        **job.teacher.record_fields,
    }


def _parameters(job: TrainingSetup) -> dict[str, int]:
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in job.learners.items()
    }
    student = sizes["student"]
    return {"student": student, "training": sum(sizes.values()), "inference": student}


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1)


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 2**10, 1)


def _commit() -> dict[str, Any]:
    """The commit of the code, and whether the code differs from it; None outside a checkout."""
    root = Path(kd_bench.__file__).resolve().parent.parent

    none = {"commit": None, "dirty": False}
    if not (root / ".git").exists():
        return none
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--"]
    try:
        done = subprocess.run(
            [*command, "kd_bench", "conf"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return none
    told = done.stdout.splitlines()
    head = next(line for line in told if line.startswith("# branch.oid "))
    return {"commit": head.split()[-1], "dirty": not all(line.startswith("#") for line in told)}


CODE = _commit()  # as it was loaded: it may be edited while jobs of a sweep are at work
