"""What follows from a job's configuration: its identity, its folder, the job that makes its teacher."""

from __future__ import annotations

from typing import Any

from kd_bench.config import identity as identity_module
from kd_bench.config.identity import EXECUTION_KEYS
from kd_bench.config.schema import BASELINE
from kd_bench.jobs.instantiate import Config, loss_classes


def needs_teacher(config: Config) -> bool:
    """Whether a job has a teacher: whether one of its losses needs one."""
    return any(loss.needs_teacher for loss in loss_classes(config["method"]).values())


def teacher_learns(config: Config) -> bool:
    """Whether a job's teacher is trained along with the student."""
    return any(loss.teacher_learns for loss in loss_classes(config["method"]).values())


def identity(config: Config) -> dict:
    """`records.identity` of a job, with what its losses' classes say of themselves."""
    classes = loss_classes(config["method"])
    return identity_module.job_identity(
        config,
        needs_teacher=needs_teacher(config),
        teacher_learns=teacher_learns(config),
        revisions={name: loss.revision for name, loss in classes.items()},
    )


def folder_name(config: Config) -> str:
    """A job's folder below the runs folder."""
    return identity_module.folder_name(identity(config), config["seed"])


def teacher_job(config: Config) -> dict | None:
    """The job that makes a job's teacher; None where none has to be made before."""
    teacher = config["teacher"]
    if not needs_teacher(config) or teacher_learns(config) or teacher["checkpoint"]:
        return None
    return {
        **config,
        "model": teacher["model"],
        "recipe": teacher["recipe"],
        "seed": teacher["seed"],
        "method": BASELINE,
        "chosen": {},
    }


def teacher_changes(changed: Config) -> dict[str, Any]:
    """What was changed in a job's teacher, as changes of the teacher's own job."""
    parts = ("teacher.model.", "teacher.recipe.")
    own = {k.removeprefix("teacher."): v for k, v in changed.items() if k.startswith(parts)}
    return own | {k: v for k, v in changed.items() if k.startswith(("dataset.", *EXECUTION_KEYS))}
